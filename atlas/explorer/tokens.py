"""Generated tokens as HTML: tinted by contamination, with what else might have stood there on hover. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from atlas.errors import visible
from atlas.steering.streaming import Token


def tint_range(columns: Iterable[Sequence[Token]]) -> tuple[float, float] | None:
    """The smallest and the largest contamination of several texts, which share a scale of tints; None without any."""
    known = [token.contamination for tokens in columns for token in tokens if token.contamination is not None]
    return (min(known), max(known)) if known else None


def token_html(tokens: Sequence[Token], prompt: str, *, tints: tuple[float, float] | None) -> Markup:
    """Tokens behind their prompt.

    Args:
        tokens: the tokens.
        prompt: what they go on with; empty for an answer in a chat.
        tints: contamination that has no tint and that has the fullest; None where it means nothing.
    """
    head = Markup('<span class="prompt">{}</span>').format(prompt) if prompt else Markup()
    return head + Markup().join(_token(token, tints) for token in tokens if token.text)


def _token(token: Token, tints: tuple[float, float] | None) -> Markup:
    lines, style = [f"likelihood {token.probability:.3f}"], Markup()
    if tints is not None and token.contamination is not None:
        lines.append(f"contamination {token.contamination:.3f}")
        share = (token.contamination - tints[0]) / max(tints[1] - tints[0], 1e-9)
        style = Markup(' style="--c:{:.3f}"').format(share)
    lines += [f"{chance:.3f}  {visible(repr(text)[1:-1])}" for text, chance in token.alternatives]
    return Markup('<span class="t" tabindex="0"{} title="{}">{}</span>').format(
        style, "\n".join(lines), escape(token.text)
    )
