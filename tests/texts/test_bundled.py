"""The SAEs that are bundled: what their pages say of them, and that they are what SAELens loads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from atlas.models.saes import load_sae
from atlas.texts import bundled

DATA = Path(__file__).parents[2] / "data"
SAES = [(name, sae_id) for name, bundle in bundled.BUNDLES.items() for sae_id in bundled.sae_ids(bundle.saes)]


@pytest.mark.parametrize(("name", "sae_id"), SAES, ids=[sae_id for _, sae_id in SAES])
def test_a_bundled_sae_is_loaded_with_what_its_name_says(name, sae_id):
    hook, kind, width = re.fullmatch(r"(.*)-(topk|jumprelu)-(\d+)", sae_id).groups()
    sae = load_sae(str(bundled.BUNDLES[name].saes), sae_id)
    assert (sae.hook_name, sae.architecture, sae.codec.d_sae) == (hook, kind, int(width))
    assert sae.prepend_bos
    assert sae.codec.decoder_rows.norm(dim=-1).sub(1).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "sae_id"), SAES, ids=[sae_id for _, sae_id in SAES])
def test_the_page_of_the_bundled_saes_gives_their_measured_figures(name, sae_id):
    figures = json.loads((bundled.BUNDLES[name].saes / sae_id / "figures.json").read_text())
    kind = {"topk": "TopK", "jumprelu": "JumpReLU"}[sae_id.split("-")[1]]
    block = re.search(r"blocks\.(\d+)", sae_id)[1]
    page = (DATA / name / "README.md").read_text()
    (row,) = re.findall(rf"^\| {kind}(?: [\d,]+)?, after block {block} \| (.*) \|$", page, re.MULTILINE)
    shown = [float(re.sub(r"\s*%", "", cell)) for cell in row.split(" | ")]
    measured = [figures["l0"], figures["explained_variance"], 100 * figures["dead"], figures["ce_recovered"]]
    measured += [figures["without_bos"]["explained_variance"]] if "without_bos" in figures else []
    assert shown == pytest.approx(measured, abs=0.051)
    assert shown[1:2] + shown[3:] == pytest.approx(measured[1:2] + measured[3:], abs=0.00051)
