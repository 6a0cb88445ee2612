"""A stranger's export is read only as far as its manifest is sound: its own files, as they were written, and nothing else."""

from __future__ import annotations

import copy
import json
import random
import shutil

import handmade
import numpy as np
import polars as pl
import pytest

from atlas.errors import AtlasError, StoreError
from atlas.store.exchange import export_atlas, import_atlas, open_export
from atlas.store.file import MANIFEST, Store
from atlas.store.manifest import _hash_content, check_files, read_manifest, table_names

RNG = np.random.default_rng(0)
RAW = handmade.random_raw(RNG, 40, 12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An export of an atlas with two SAEs, a few activations files each."""
    base = tmp_path_factory.mktemp("whole")
    store = handmade.make_store(base / "one.atlas", [RAW, RAW[:, :, ::-1]], handmade.unit_vectors(RNG, 40))
    export_atlas(store, base / "out", rows_per_file=60)
    return base / "out"


@pytest.fixture
def export(whole, tmp_path):
    """A copy of it, to spoil."""
    return shutil.copytree(whole, tmp_path / "out")


def rewrite(folder, change, *, sound=True):
    """Change the content of a manifest, as one who knows how hashes are made (`sound`), or as chance does."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    told = content.pop("manifest_sha256")
    content = change(content) or content
    path.write_text(json.dumps({**content, "manifest_sha256": _hash_content(content) if sound else told}))


def refused(folder, target):
    """The line in which an import is refused; it leaves nothing behind."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(StoreError) as caught:
        import_atlas(folder, target)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    assert sorted(target.parent.rglob("*")) == before
    return message


def rename(mapping, old, new):
    """The same mapping, one key called otherwise."""
    return {new if key == old else key: value for key, value in mapping.items()}


def test_the_tables_of_the_manifest_are_those_of_the_schema(whole):
    manifest = read_manifest(whole)
    assert tuple(manifest.tables) == table_names()
    with Store(whole.parent / "one.atlas").read() as session:
        made = session.sql("select table_name from duckdb_tables() where not internal and not temporary")
    assert sorted(made["table_name"]) == sorted(table_names())


def test_every_file_has_its_hash_in_the_manifest(whole):
    manifest = read_manifest(whole)
    assert set(manifest.hashes) == {name for files in manifest.tables.values() for name in files}
    assert all(len(value) == 64 for value in manifest.hashes.values())


def test_a_table_name_never_runs_as_sql(export, tmp_path):
    secret, stolen = tmp_path / "secret.txt", tmp_path / "stolen.csv"
    secret.write_text("the secret")
    name = (
        'atlas" by name select 2 as schema_version limit 0; '
        f"copy (select content from read_text('{secret}')) to '{stolen}'; insert into \"atlas"
    )
    rewrite(export, lambda content: content.update(tables=rename(content["tables"], "atlas", name)))
    assert "lists table 'atlas\" by name" in refused(export, tmp_path / "x.atlas")
    assert not stolen.exists()


def swap_files(content):
    files = content["tables"]["activations"]
    names = list(files)
    content["tables"]["activations"] = {name: files[name] for name in [names[1], names[0], *names[2:]]}


def set_in(*path):
    """Set the value at a path of keys: the last of `path`."""

    def change(content):
        *keys, last, value = path
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*path):
    def change(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        del content[last]

    return change


ROWS = {"prompts.parquet": 40}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("tables", "prompts"), "does not list table prompts"),
        (drop("tables", "atlas"), "does not list table atlas"),
        (drop("tables"), "has None for tables"),
        (drop("reference_hash"), "has None for reference_hash"),
        (drop("sha256"), "(its own SHA-256 differs)|x"),
        (drop("sha256", "prompts.parquet"), "has no SHA-256 of prompts.parquet"),
        (set_in("sha256", None), "has None for sha256"),
        (set_in("sha256", ["x"]), "has a JSON array for sha256"),
        (set_in("sha256", "prompts.parquet", 7), "has no SHA-256 of prompts.parquet"),
        (set_in("tables", []), "has a JSON array for tables"),
        (set_in("tables", None), "has None for tables"),
        (set_in("tables", "prompts", []), "has a JSON array for table prompts"),
        (set_in("tables", "prompts", None), "has None for table prompts"),
        (set_in("tables", "prompts", {}), "lists 'no file' for table prompts"),
        (set_in("tables", "extra", {"extra.parquet": 1}), "lists table 'extra', which no atlas has"),
        (set_in("tables", "PROMPTS", ROWS), "lists table 'PROMPTS', which no atlas has"),
        (set_in("tables", "prompts", {**ROWS, "./prompts.parquet": 40}), "lists 'prompts.parquet, ./prompts.parquet'"),
        (set_in("tables", "prompts", {"topics.parquet": 40}), "lists 'topics.parquet' for table prompts"),
        (set_in("tables", "prompts", {"../out/prompts.parquet": 40}), "lists '../out/prompts.parquet'"),
        (set_in("tables", "prompts", {"/etc/passwd": 40}), "lists '/etc/passwd'"),
        (set_in("tables", "prompts", {"http://x/prompts.parquet": 40}), "lists 'http://x/prompts.parquet'"),
        (set_in("tables", "prompts", {"*.parquet": 40}), "lists '*.parquet'"),
        (set_in("tables", "prompts", {"x" * 5000: 40}), "lists 'xxxx"),
        (set_in("tables", "prompts", {"\x1b[2J\r\n\ud800": 40}), "lists '\\x1b[2J\\r\\n\\ud800'"),
        (set_in("tables", "activations", "activations/../prompts.parquet", 1), "lists 'activations/../prompts"),
        (set_in("tables", "activations", "activations/sae_key=0/neurons_٠00000_000001.parquet", 1), "whose files are"),
        (set_in("tables", "activations", "activations/sae_key=9/neurons_000002_000001.parquet", 1), "out of order"),
        (set_in("tables", "activations", "activations/sae_key=4294967296/neurons_000000_000001.parquet", 1), "out of"),
        (swap_files, "out of order"),
        (set_in("tables", "prompts", "prompts.parquet", "40"), "has '40' rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", 40.0), "has 40.0 rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", -1), "has -1 rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", True), "has True rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", None), "has None rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", {}), "has a JSON object rows, which is no count"),
        (set_in("tables", "prompts", "prompts.parquet", 10**3000), "and the manifest says a number of more digits"),
        (set_in("tables", "prompts", "prompts.parquet", 41), "has 40 rows, and the manifest says 41"),
        (set_in("reference_hash", 7), "has 7 for reference_hash"),
        (set_in("reference_hash", "other"), "files of more than one atlas"),
        (set_in("schema_version", True), "has schema version True"),
        (set_in("schema_version", "2"), "has schema version '2'"),
        (set_in("schema_version", [2]), "has schema version a JSON array"),
        (set_in("kind", {}), "is not the manifest of an export"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_lists_anything_else_is_refused_in_one_line(export, tmp_path, change, message):
    if message.startswith("(its own"):  # leaving out the hashes alone is noticed; leaving out both is an older export
        rewrite(export, change, sound=False)
        message = "its own SHA-256 differs"
    else:
        rewrite(export, change)
    assert message in refused(export, tmp_path / "x.atlas")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0\0",
        b"\xff\xfe{}",
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"kind":' * 50_000,
        b"[]",
        b'"text"',
        b'{"kind": NaN}',
        b'{"schema_version": ' + b"9" * 10_000 + b"}",
        b'{"kind": "neuron-atlas export", "kind": "neuron-atlas export"}',
    ],
    ids=["empty", "zeros", "UTF-16", "open", "nested", "keys", "a list", "a text", "NaN", "digits", "twice"],
)
def test_text_that_is_no_manifest_is_refused_in_one_line(export, tmp_path, text):
    (export / MANIFEST).write_bytes(text)
    assert "is not the manifest of an export" in refused(export, tmp_path / "x.atlas")


def test_a_table_that_is_listed_twice_is_refused(export, tmp_path):
    text = (export / MANIFEST).read_text()
    (export / MANIFEST).write_text(text.replace('"tables": {', '"tables": {"prompts": {"prompts.parquet": 40},', 1))
    assert "is not the manifest of an export" in refused(export, tmp_path / "x.atlas")


def move_out(folder, outside, name):
    """Put a link to a file or folder elsewhere in its place."""
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)


@pytest.mark.parametrize("name", ["prompts.parquet", "activations", "activations/sae_key=0"])
def test_nothing_is_read_through_a_link(export, tmp_path, name):
    move_out(export, tmp_path / "outside", name)
    assert f"{name} is a link, and an export holds none" in refused(export, tmp_path / "x.atlas")
    with pytest.raises(StoreError, match="is a link"), open_export(export):
        pass


def test_a_manifest_behind_a_link_is_none(export, tmp_path):
    move_out(export, tmp_path / "outside.json", MANIFEST)
    assert "is not the manifest of an export" in refused(export, tmp_path / "x.atlas")


def test_a_folder_in_the_place_of_a_file_is_refused(export, tmp_path):
    (export / "prompts.parquet").unlink()
    (export / "prompts.parquet").mkdir()
    assert "prompts.parquet is no file" in refused(export, tmp_path / "x.atlas")


def test_the_export_itself_may_be_reached_through_a_link(export, tmp_path):
    (tmp_path / "link").symlink_to(export)
    import_atlas(tmp_path / "link", tmp_path / "x.atlas")
    Store(tmp_path / "x.atlas").check()


def test_an_activations_file_that_is_not_listed_is_noticed(export, tmp_path):
    def forget(content):
        name = list(content["tables"]["activations"])[-1]
        del content["tables"]["activations"][name], content["sha256"][name]

    rewrite(export, forget)
    assert "does not list 'activations/sae_key=1/" in refused(export, tmp_path / "x.atlas")


def flip(path, seed):
    data = bytearray(path.read_bytes())
    random.Random(seed).shuffle(places := list(range(len(data))))
    for place in places[:64]:
        data[place] ^= 1 << (place % 8)
    path.write_bytes(data)


def test_changed_bytes_of_any_file_are_noticed(export, tmp_path):
    files = sorted(export.rglob("*.parquet"))
    for number, path in enumerate(files):
        kept = path.read_bytes()
        flip(path, number)
        with pytest.raises(StoreError, match="was changed after it was written"):
            check_files(read_manifest(export))
        path.write_bytes(kept)
    check_files(read_manifest(export))


def without_hashes(content):
    """As exports were before there were hashes."""
    del content["sha256"]


def old_manifest(folder):
    rewrite(folder, without_hashes)
    content = json.loads((folder / MANIFEST).read_text())
    del content["manifest_sha256"]
    (folder / MANIFEST).write_text(json.dumps(content))


def test_an_export_from_before_there_were_hashes_is_imported_and_the_command_says_so(export, tmp_path):
    from atlas.cli.main import cli
    from click.testing import CliRunner

    old_manifest(export)
    result = CliRunner().invoke(cli, ["import", str(export), str(tmp_path / "x.atlas")])
    assert result.exit_code == 0, result.output
    assert "has no hashes, so that nobody can tell whether its contents were changed" in result.stderr
    Store(tmp_path / "x.atlas").check()


def test_swapped_files_of_an_export_without_hashes_are_noticed_by_their_columns(export, tmp_path):
    old_manifest(export)
    empty = [name for name in table_names() if read_manifest(export).rows(name) == 0]
    one, other = export / f"{empty[0]}.parquet", export / f"{empty[1]}.parquet"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    assert "copy the export again" in refused(export, tmp_path / "x.atlas")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.with_columns(more=pl.lit(1)), "column 'more' is INTEGER and should be not there"),
        (lambda frame: frame.drop("source"), "column 'source' is not there and should be VARCHAR"),
        (lambda frame: frame.with_columns(pl.col("prompt_id").cast(pl.Int64)), "is BIGINT and should be UINTEGER"),
        (lambda frame: frame.with_columns(pl.col("n_tokens").cast(pl.String)), "is VARCHAR and should be UINTEGER"),
        (
            lambda frame: frame.rename({"text": "t\rext\x1b"}),
            "column 't\\rext\\x1b' is VARCHAR and should be not there",
        ),
    ],
    ids=["more", "fewer", "wider", "text", "renamed"],
)
def test_a_table_of_other_columns_is_refused_in_one_line(export, tmp_path, change, message):
    old_manifest(export)
    change(pl.read_parquet(export / "prompts.parquet")).write_parquet(export / "prompts.parquet")
    assert message in refused(export, tmp_path / "x.atlas")


@pytest.mark.parametrize("folder", ["text=other", "n_tokens=7", "a*b", "a[1]b", "a?b", "it's #1 %20", "sae_key=5"])
def test_the_name_of_the_folder_above_an_export_is_no_part_of_it(whole, tmp_path, folder):
    for other in ("axb", "a1b", "acb"):  # what patterns would match
        (tmp_path / other).mkdir()
    export = shutil.copytree(whole, tmp_path / folder / "out")
    import_atlas(export, tmp_path / "x.atlas")
    with Store(tmp_path / "x.atlas").read() as session, Store(whole.parent / "one.atlas").read() as original:
        for table in table_names():
            assert session.sql(f'from "{table}"').equals(original.sql(f'from "{table}"'))


def test_an_export_read_where_it_lies_gives_the_rows_of_the_atlas(whole, tmp_path):
    export = shutil.copytree(whole, tmp_path / "text=other[1]" / "out")
    with open_export(export) as store, store.read() as session, Store(whole.parent / "one.atlas").read() as original:
        for table in ("prompts", "activations", "neurons", "prompt_totals"):
            assert session.sql(f'from "{table}"').sort(pl.all()).equals(original.sql(f'from "{table}"').sort(pl.all()))


def paths_of(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_of(inner, (*path, key))


ODD = [
    None,
    True,
    -1,
    0,
    40,
    2**64,
    0.5,
    "",
    "prompts",
    "../x",
    "/etc/passwd",
    "\ud800",
    [],
    [1],
    {},
    {"a": 1},
    "x" * 999,
]


def mutate(content, rng):
    """A manifest with one to three things changed."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        *keys, last = rng.choice(list(paths_of(content))[1:])
        place = content
        for key in keys:
            place = place[key]
        kind = rng.randrange(4)
        if kind == 0:
            del place[last]
        elif kind == 1:
            place[last] = rng.choice(ODD)
        elif kind == 2 and isinstance(place, dict):
            renamed = rename(place, last, str(rng.choice(ODD)))
            place.clear()
            place.update(renamed)
        elif isinstance(place, dict):
            items = list(place.items())
            rng.shuffle(items)
            place.clear()
            place.update(items)
    return content


def fuzz_manifests(export, rounds, seed):
    """(refused, accepted) of so many mutated manifests; whatever is accepted lists what the sound one lists."""
    rng = random.Random(seed)
    sound, counts = read_manifest(export), [0, 0]
    content = json.loads((export / MANIFEST).read_text())
    del content["manifest_sha256"]
    for _ in range(rounds):
        changed = mutate(content, rng)
        told = {"manifest_sha256": _hash_content(changed)} if rng.random() < 0.7 else {}
        text = json.dumps({**changed, **told})
        if rng.random() < 0.2:
            cut = rng.randrange(len(text))
            text = text[:cut] + text[cut + rng.randint(1, 9) :]
        (export / MANIFEST).write_text(text)
        try:
            found = read_manifest(export)
            check_files(found)
            rows_differ = any(found.tables[name] != sound.tables[name] for name in table_names())
            counts[1] += not rows_differ and list(found.tables["activations"]) == list(sound.tables["activations"])
            counts[0] += rows_differ  # the count is compared with the files' own when they are read
        except AtlasError as error:
            assert "\n" not in str(error) and len(str(error)) < 2100
            counts[0] += 1
    return tuple(counts)


def test_no_mutated_manifest_gives_a_raw_error_or_other_files(export):
    refused_ones, accepted = fuzz_manifests(export, 300, seed=0)
    assert refused_ones + accepted == 300
    assert refused_ones > 150


def test_no_changed_bytes_of_an_older_export_give_a_raw_error_or_half_an_atlas(export, tmp_path):
    old_manifest(export)
    rng = random.Random(0)
    for number in range(8):
        path = rng.choice(sorted(export.rglob("*.parquet")))
        kept = path.read_bytes()
        flip(path, number)
        try:
            import_atlas(export, tmp_path / "x.atlas")
        except StoreError as error:
            assert "\n" not in str(error)
        assert sorted(each.name for each in tmp_path.iterdir()) in (["out"], ["out", "x.atlas"])
        (tmp_path / "x.atlas").unlink(missing_ok=True)
        path.write_bytes(kept)
