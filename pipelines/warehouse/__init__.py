"""The folder of database files: loading, recovery, upgrade, views, checks, publishing."""
