"""The stage that makes steering vectors from contrast pairs (method: section 5).

In reading order: `pair_tokens` (a pair as token ids, and where in it a code is taken), `make_vectors` (the stage),
`vectors` (read what it stored). To take codes elsewhere, add an entry to `pair_tokens.CODE_POSITIONS`.
"""
