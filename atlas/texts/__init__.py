"""What is read: prompts, contrast pairs, names, and the bundled data.

In reading order: `prompts` (texts from files of any kind), `pairs` (contrast pairs), `explanations` (of
neurons, as Neuronpedia exports them), `names` (what a topic may be called), `bundled` (where data/pocket has its model, SAEs,
prompts and topics). To read another kind of file, add its
ending to `prompts.ENDINGS` or `pairs.FORMATS` and a function that reads it.
"""
