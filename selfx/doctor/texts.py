"""The texts that every check runs on, and others that a tokenizer must give back."""

RUN = (
    "The lighthouse keeper counted eleven ships before the fog came in, wrote the number down in "
    "the log as he had done every evening since 1947, and went to wake his daughter.",
    "def mean(values):\n    total = sum(values)\n    return total / len(values) if values else 0.0"
    "\n\nprint(mean([3, 1, 4, 1, 5, 9, 2, 6]))  # 3.875\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Deich; à bientôt, señor Núñez! "
    "Привет, как дела? 東京は今日も雨です。",
    "Question: what is 17 times 24?\nAnswer: 17 times 24 is 408, because 17 times 20 is 340 and 17 "
    "times 4 is 68, and 340 plus 68 is 408.",
)
"""Prose, code, other scripts, arithmetic."""

ROUND_TRIP = (
    *RUN,
    "plain words",
    "  two spaces before,   three inside, one after ",
    "tabs\tand\nlines\n\n\nand\r\nreturns",
    "naïve café, Ångström, ﬁne ligature, e\u0301 combined",
    "👩‍👩‍👧‍👦 🇯🇵 👍🏽 ☕️",
    "0123456789 3.14159 1e-5 0xFF 1,000,000",
    "for (int i = 0; i < n; ++i) { a[i] ^= b->c; } // <html> & \\n",
    "don't we'll I'M isn't",
    "ﷺ ا ب ت ‏שלום हिन्दी 한국어 ไทย",
    "A",
    " ",
)
"""Accents, emoji of several code points, digits, spaces, code, other scripts."""

CHAT = (
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "Another, please."},
)
