"""Data for the made-up account: countries, carriers, prices, habits. Drawing from it: sends.

Network codes are from ITU E.212. Prices are plausible, in millionths of a US dollar per send.
"""

from __future__ import annotations

from typing import NamedTuple


class Carrier(NamedTuple):
    """A mobile network. Its E.212 codes keep leading zeros; `share` is its part of the country."""

    mcc: str
    mnc: str
    name: str
    share: float


class Country(NamedTuple):
    """One destination country.

    `dial`: calling code and first digits of mobile numbers. `digits`: how many digits follow.
    `weight`: share of the account. `conversion`: chance that a delivered code is typed back.
    `utc_offset`: hours. `receipts`: False if delivery and price are never reported.
    """

    iso: str
    dial: str
    digits: int
    locale: str
    weight: float
    conversion: float
    utc_offset: int
    sms_price: int
    carriers: tuple[Carrier, ...]
    receipts: bool = True


COUNTRIES: tuple[Country, ...] = (
    Country("US", "1555", 7, "en", 0.30, 0.90, -5, 8_300, (
        Carrier("311", "480", "Verizon Wireless", 0.38),
        Carrier("310", "260", "T-Mobile USA", 0.34),
        Carrier("310", "410", "AT&T Wireless", 0.28),
    )),
    Country("GB", "447", 9, "en-GB", 0.10, 0.89, 0, 42_000, (
        Carrier("234", "30", "EE", 0.32),
        Carrier("234", "10", "O2 (UK)", 0.30),
        Carrier("234", "15", "Vodafone UK", 0.24),
        Carrier("234", "20", "Three UK", 0.14),
    )),
    Country("BR", "55119", 8, "pt-BR", 0.12, 0.80, -3, 49_000, (
        Carrier("724", "06", "Vivo", 0.40),
        Carrier("724", "05", "Claro BR", 0.34),
        Carrier("724", "02", "TIM Brasil", 0.26),
    )),
    Country("CO", "573", 9, "es", 0.09, 0.78, -5, 51_200, (
        Carrier("732", "101", "Claro Colombia", 0.52),
        Carrier("732", "123", "Movistar Colombia", 0.25),
        Carrier("732", "103", "Colombia Movil (Tigo)", 0.23),
    )),
    Country("MX", "521", 10, "es", 0.08, 0.79, -6, 57_800, (
        Carrier("334", "020", "Telcel", 0.62),
        Carrier("334", "050", "AT&T Mexico", 0.20),
        Carrier("334", "030", "Movistar Mexico", 0.18),
    )),
    Country("DE", "4915", 9, "de", 0.07, 0.90, 1, 101_500, (
        Carrier("262", "01", "Telekom Deutschland", 0.38),
        Carrier("262", "02", "Vodafone D2", 0.32),
        Carrier("262", "07", "O2 Germany", 0.30),
    )),
    Country("FR", "336", 8, "fr", 0.06, 0.89, 1, 72_500, (
        Carrier("208", "01", "Orange F", 0.38),
        Carrier("208", "10", "SFR", 0.24),
        Carrier("208", "15", "Free Mobile", 0.20),
        Carrier("208", "20", "Bouygues Telecom", 0.18),
    )),
    Country("ES", "346", 8, "es", 0.05, 0.88, 1, 71_000, (
        Carrier("214", "07", "Movistar", 0.37),
        Carrier("214", "03", "Orange ES", 0.35),
        Carrier("214", "01", "Vodafone ES", 0.28),
    )),
    Country("IN", "919", 9, "hi", 0.05, 0.81, 5, 83_200, (
        Carrier("405", "857", "Reliance Jio", 0.45),
        Carrier("404", "10", "Bharti Airtel", 0.36),
        Carrier("404", "20", "Vodafone Idea", 0.19),
    )),
    Country("ID", "628", 9, "id", 0.03, 0.72, 7, 412_300, (
        Carrier("510", "10", "Telkomsel", 0.48),
        Carrier("510", "01", "Indosat Ooredoo", 0.30),
        Carrier("510", "11", "XL Axiata", 0.22),
    )),
    Country("NG", "2348", 9, "en", 0.02, 0.66, 1, 302_500, (
        Carrier("621", "30", "MTN Nigeria", 0.47),
        Carrier("621", "20", "Airtel Nigeria", 0.29),
        Carrier("621", "50", "Globacom", 0.24),
    )),
    Country("PK", "923", 9, "ur", 0.015, 0.68, 5, 362_000, (
        Carrier("410", "01", "Jazz", 0.45),
        Carrier("410", "04", "Zong", 0.30),
        Carrier("410", "06", "Telenor Pakistan", 0.25),
    )),
    Country("CN", "8613", 9, "zh", 0.015, 0.74, 8, 54_600, (
        Carrier("460", "00", "China Mobile", 0.60),
        Carrier("460", "01", "China Unicom", 0.22),
        Carrier("460", "03", "China Telecom", 0.18),
    ), receipts=False),
)  # fmt: skip

CHANNELS = ("sms", "call", "email", "whatsapp", "rbm")
FIRST_CHANNEL_SHARE = (0.76, 0.03, 0.07, 0.11, 0.03)
# Channel of a resend: the same one, a call, or WhatsApp.
RESEND_CHANNEL_SHARE = (0.60, 0.25, 0.15)
RESEND_CHANCE = (0.62, 0.45, 0.35, 0.25)  # after the 1st to 4th send; there are at most 5

# Price by channel in millionths of a US dollar; None = the country's SMS price.
CHANNEL_PRICE: tuple[int | None, ...] = (None, 14_000, 900, 14_700, 9_500)
CHANNEL_CONVERSION = (1.0, 0.82, 0.90, 1.02, 0.95)

# Weights of the hours of a day (local time) and of the days of a week (Monday first).
HOURS = (
    0.35, 0.22, 0.15, 0.12, 0.14, 0.25, 0.50, 0.85, 1.10, 1.25, 1.35, 1.40,
    1.45, 1.40, 1.35, 1.35, 1.40, 1.50, 1.60, 1.70, 1.65, 1.40, 1.00, 0.62,
)  # fmt: skip
WEEKDAYS = (1.05, 1.08, 1.06, 1.04, 1.10, 0.90, 0.77)

SERVICES = 3  # 0 sign-in, 1 sign-up, 2 payments (24 h code validity)
SERVICE_SHARE = (0.62, 0.28, 0.10)
CODE_LENGTH = (6, 6, 8)
CODE_VALIDITY = (600, 600, 86_400)  # seconds: Twilio's default and its maximum

EMAIL_DOMAINS = ("example.com", "example.org", "mail.example.net")
