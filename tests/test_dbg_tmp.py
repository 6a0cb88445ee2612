import sys; sys.path.insert(0, "/work/main/tests")
from test_contrast import *
from atlas.layerwise import catch_activations, pad_rows
def test_dbg(opened, transformer, language_model, sae_folder):
    tok = language_model.tokenizer
    sides = tokenize_pairs(tok, PAIRS, prepend_bos=True, context=32)
    s = sides[0]
    by_hand = [tok.bos_token_id] + tok("The doctor gave a new drug.")["input_ids"]
    print(s.positive, by_hand, s.start, s.first)
    b, m = pad_rows(tok, [s.positive, s.negative], "cpu")
    x = catch_activations(transformer, b, m, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"]
    st = Steerer(opened.store); model2, _ = st.model
    x2 = catch_activations(model2, b, m, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"]
    seen = []
    h = find_site(transformer, "blocks.0.hook_resid_post").edit(lambda x, seen=seen: seen.append(x) or x)
    with torch.no_grad(): transformer(torch.tensor([by_hand]))
    h.remove()
    print((x[0, :len(by_hand)] - seen[0][0]).abs().max(), (x2-x).abs().max())
    layers = st.layers(None, [0]).layers
    sae = load_sae(str(sae_folder), "residual")
    print((layers[0].codec.encode(x).acts - sae.codec.encode(x).acts).abs().max())
    assert 0
