"""Language models, SAEs and sentence encoders: load them, know them again, hook them, encode and embed with them.

In reading order: `places` (where a language model is: a folder, a GGUF file, the hub, a package), `hub`, `gguf_header` and
`gguf` (what is behind that), `checkpoints` and `load_failures` (weights, and what is wrong with them), `loading` (language
models), `saes`, `encoders` and `acceptability` (the other things that are loaded), `quiet` (in silence, one thread at a time),
`configs` (what a model's configuration says, whatever it calls it), `fingerprints` (hashes by which weights are known) and
`digests` (what these are made of), `encoder_copies` and `encoder_export` (encoders that run without their libraries), `cache`
(where those are kept), `hooks` (the place a hook name means, catching and editing there), `agreement` (is that place right?),
`tokens` (texts as token ids, special tokens, padding, tokens as text), `chat` (prompts in a chat template), `loaded` (a model
with all that it takes to give it texts), `codec` (an SAE's arithmetic), `activations` (prompts -> what fired), `embeddings`
(texts -> vectors), `likelihood` (log-probabilities), `unembedding` (what a decoder row writes), `sampling` (random numbers per
text), `recorded` and `recorded_encoder` (the model, the SAEs and the encoder that an atlas was built with). To support a model
family whose hooks are elsewhere, see `hooks.find_site`, and add the family to tests/shared/families.py.
"""
