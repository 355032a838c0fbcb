"""Bytes -> lines of text, or a refusal."""

from __future__ import annotations

from ..errors import CardError

__all__ = ["MAX_CARD_BYTES", "card_lines"]

MAX_CARD_BYTES = 16 * 2**20
"""The longest card that is read. Cards seen on the Hub are 5 to 60 KB; this leaves 250 times that."""

BINARY_PROBE_BYTES = 1024
"""How far a NUL is looked for. Git looks at 8000 bytes (buffer_is_binary in xdiff-interface.c); a
weight file or a UTF-16 text shows one within the first few."""


def card_lines(card: str | bytes) -> tuple[list[str], list[str]]:
    """The card's lines without their ends, and notes on what had to be mended.

    Lines end in LF, CRLF or CR, as Markdown has it (`str.splitlines` also breaks at form feeds and
    U+2028, which may stand inside a prompt template). A byte order mark is dropped.
    Raises CardError for what is longer than MAX_CARD_BYTES or is no text.
    """
    notes: list[str] = []
    if isinstance(card, str):
        try:
            data = card.encode("utf-8")
        except UnicodeEncodeError:
            data = card.encode("utf-8", errors="replace")
            notes.append("The card holds halves of characters (lone surrogates); each reads as '?'.")
    else:
        data = bytes(card)
    if len(data) > MAX_CARD_BYTES:
        raise CardError(f"it has {len(data):,} bytes; a card of up to {MAX_CARD_BYTES:,} is read")
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        raise CardError("it is not text (a NUL byte near its start); give the README.md, in UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", errors="replace")
        notes.append(f"The card is not UTF-8 (byte {error.start}); what cannot be read is shown as U+FFFD.")
    text = text.removeprefix("\ufeff").replace("\0", "\ufffd")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), notes
