"""Cards: what there is to show of a neuron, a topic, a text or a steer, and the same as HTML.

In reading order: `token_values` (a neuron's activation on every token of a few prompts, kept in the file), `written_tokens` (the
tokens that its decoder row promotes and suppresses, kept too), `neighbours` (by meaning, by co-firing, by decoder rows),
`frames` (all of it, as frames), `html` (what all cards share), `rendering` (frames into the templates of `templates/`),
`neuron` (all that there is to say of a neuron), `shown` (results of other words that a notebook shows as cards), `static_page`
(a file of HTML about the neurons of a topic or of a list).
"""
