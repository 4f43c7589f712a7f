"""A local stand-in for the API with a made-up account, for demos, tests and benchmarks."""
