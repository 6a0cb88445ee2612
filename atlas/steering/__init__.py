"""Steer a model by stored scores and vectors, and generate (method: sections 4 and 5).

In reading order: `settings` (what can be chosen), `methods` (how a token's code is edited), `selection` (which
neurons), `signals` (scores that a selection still needs), `targets` (scores and vectors, read from the store), `listed`
(neurons that were kept in a list),
`default_strength` (how strongly when nobody says), `prepare` (all of this for a call), `intervention` (the hooks,
while a `with` block lasts), `token_tracking`, `token_records` and `returned_rows` (what each token of a forward call
is), `call_watching` (every call of the model), `contamination` (the figures of what was done), `generation` (texts),
`streaming` (one text as it grows),
`steer` (the stage), `generations` and `calibrations` (what is kept in the store). To add a method, write one function
and its entry in `methods.METHODS`; to
add a rule, an entry in `selection.RULES`.
"""
