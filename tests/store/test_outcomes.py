"""Outcomes of units land, are stored and are read."""

import bz2
import gzip
import io
import lzma
import zipfile

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from evaluator.errors import InputError, UnknownName
from evaluator.pipeline.importing import import_outcomes
from evaluator.records import LeftOut, LeftOutKind, OutcomeOptions, Release
from evaluator.stats.outcomes.levels import moments_of
from evaluator.store.outcomes import facts_from_json

SMALL = """user_id,variant,ts,converted,revenue,revenue_pre
u1,control,1,0,1.5,1
u2,control,2,1,NA,2
u3,treatment,3,1,4,
u4,treatment,4,0,NaN,4
u5,control,5,0,2,5
u5,treatment,6,0,2,5
u6,treatment,7,1,3,6
u6,treatment,7,1,3,6
"""


@pytest.fixture
def land(store, tmp_path):
    def land_text(text, *, release="r", query="", skip=False, name="o.csv", **options):
        path = tmp_path / name
        path.write_text(text)
        return import_outcomes(
            store, Release(release), [str(path)], OutcomeOptions(**options), query=query, skip_bad_rows=skip
        )

    return land_text


def read(store, release="r", **options):
    return store.data.read_outcomes(store.data.runs(release)[-1], **options)


def test_one_row_a_unit_with_all_that_was_odd(store, land):
    landed, facts, plan = land(SMALL)
    assert (plan.unit, plan.arm) == ("user_id", "variant")
    assert [(c.name, c.role) for c in plan.columns] == [
        ("converted", "outcome"),
        ("revenue", "outcome"),
        ("revenue_pre", "covariate"),
    ]
    assert (landed.rows, facts.rows, facts.units, facts.crossed) == (8, 8, 5, 1)
    assert (facts.duplicates, facts.duplicates_dropped) == (1, True)
    assert facts.missing == {
        "revenue": {"baseline": 1, "treatment": 1},
        "revenue_pre": {"baseline": 0, "treatment": 1},
    }
    outcomes = read(store, values=["revenue", "revenue_pre"], row_values=["revenue"])
    assert outcomes.arms == ("baseline", "treatment")
    assert outcomes.variables == ("rows", "converted", "converted?", "revenue", "revenue_pre")
    assert [part.n for part in outcomes.moments] == [2, 3]
    assert outcomes.moments[1].mean[:3].tolist() == pytest.approx([1, 2 / 3, 2 / 3])
    assert [sorted(v) for v in outcomes.values["revenue_pre"]] == [[1, 2], pytest.approx([3.25, 4, 6])]
    assert [np.isnan(v).sum() for v in outcomes.values["revenue"]] == [1, 1]
    assert [sorted(v) for _, v in outcomes.row_values["revenue"]] == [[1.5], [3, 4]]


def test_rows_name_the_place_of_their_unit(store, land):
    """Also where a column is called like one of the query's own."""
    rng = np.random.default_rng(5)
    rows = [f"u{rng.integers(40)},{rng.integers(9)}" for _ in range(300)]
    land(
        "user,arm,first\n" + "\n".join(f"{r.split(',')[0]},{'AB'[int(r[1:].split(',')[0]) % 2]},{r[-1]}" for r in rows)
    )
    outcomes = read(store, values=["first"], row_values=["first"])
    for arm, part in enumerate(outcomes.moments):
        unit, value = outcomes.row_values["first"][arm]
        assert np.bincount(unit, weights=value, minlength=part.n) == pytest.approx(outcomes.values["first"][arm])


def test_a_log_of_events_keeps_equal_rows(store, land):
    rows = [f"s{k // 4},{'AB'[k // 4 % 2]},{int(k % 4 == 1)}" for k in range(200)]
    _, facts, _ = land("session,group,hit\n" + "\n".join(rows))
    assert (facts.rows, facts.units, facts.duplicates, facts.duplicates_dropped) == (200, 50, 100, False)
    outcomes = read(store)
    assert outcomes.moments[0].mean.tolist() == [4, 1, 1]


def test_moments_are_those_of_the_units(store, land):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (500, 2))
    text = "user,arm,x,x_pre\n" + "\n".join(f"u{k},{k % 2},{a},{b}" for k, (a, b) in enumerate(values))
    land(text)
    outcomes = read(store)
    for arm, part in enumerate(outcomes.moments):
        expected = moments_of(np.column_stack([np.ones(250), values[arm::2]]))
        assert part.mean == pytest.approx(expected.mean)
        assert part.products == pytest.approx(expected.products)


def test_parquet_and_queries_give_the_same(store, tmp_path):
    table = pa.table(
        {"id": [1, 2, 3, 4], "arm": ["A", "B", "A", "B"], "ok": [True, False, True, True], "n": [1, 2, 3, 4]}
    )
    path = tmp_path / "o.parquet"
    pq.write_table(table, path)
    import_outcomes(store, Release("plain"), [str(path)], OutcomeOptions())
    query = "SELECT id AS who, arm, ok::int AS ok, n FROM outcomes WHERE n > 0;"
    import_outcomes(store, Release("asked"), [str(path)], OutcomeOptions(unit="who"), query=query)
    plain, queried = read(store, "plain"), read(store, "asked")
    assert plain.variables == queried.variables == ("rows", "ok", "ok?", "n")
    assert (
        [m.mean.tolist() for m in plain.moments]
        == [m.mean.tolist() for m in queried.moments]
        == [
            [1, 1, 1, 2],
            [1, 0.5, 0.5, 3],
        ]
    )


def test_the_same_file_again_changes_nothing(store, land):
    land(SMALL)
    landed, facts, _ = land(SMALL)
    assert (landed.already, landed.rows, facts.units) == (1, 0, 5)
    assert len(store.data.runs("r")) == 1
    assert land(SMALL, outcome_names=("converted",))[0].rows == 8


def test_outcomes_are_no_requests(store, land):
    land(SMALL)
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 0}]
    assert store.data.read_cells([store.data.runs("r")[0].id]).moments.run.size == 0


def test_purged_outcomes_keep_their_sums(store, land):
    land(SMALL)
    store.data.purge("r")
    outcomes = read(store, values=["revenue"], row_values=["revenue"])
    assert (outcomes.values, outcomes.row_values) == ({}, {})
    assert [part.n for part in outcomes.moments] == [2, 3]
    assert not list(store.file.folder.rglob("outcomes.*"))


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        pytest.param("user,arm,x\na,A,1\nb,B,much\n", {}, r"o.csv:3: column 'x' has the value 'much'", id="text"),
        pytest.param("user,arm,x\na,A,1\nb,B,inf\n", {}, r"o.csv:3: column 'x' has the value 'inf'", id="infinite"),
        pytest.param("user,arm,x\na,A,1\nb,B,-2e60\n", {}, r"a finite number of at most 1e60", id="too-large"),
        pytest.param("user,arm,x\na,A,1\n,B,2\n", {}, r"o.csv:3: column 'user' has no value", id="no-unit"),
        pytest.param("user,arm,x\na,A,1\nb,,2\n", {}, r"o.csv:3: column 'arm' has no value", id="no-arm"),
        pytest.param("user,arm,x\na,A,1\nb,B,2,3\n", {}, r"o.csv:3: the row has 4 values, the header 3", id="too-many"),
        pytest.param("user,arm,x\na,A,1\nb,B,2\n", {"outcome_names": ("x:binary",)}, "neither 0 nor 1", id="binary"),
    ],
)
def test_bad_rows_are_named_and_skipped_on_demand(store, land, text, options, says):
    chosen = {"outcome_names": ("x",)} | options
    with pytest.raises(InputError, match=says):
        land(text, **chosen)
    assert store.releases() == ()
    assert not [path for path in store.file.folder.rglob("*") if path.is_dir()]
    landed, facts, _ = land(text, skip=True, **chosen)
    assert (landed.rows, facts.skipped_rows) == (1, 1)


@pytest.mark.parametrize("query", ["", "SELECT user, arm, x FROM outcomes"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('user,arm,x\na,A,1\nb,"B,2\nc,A,3\n' * 40, r"o\.csv:\d+: .*quote"),
        ('user,arm,"x,y\na,A,1\nb,B,2\n', r"o\.csv(:1)?:? .*(header|rows and columns|quote|column)"),
    ],
)
def test_a_file_that_cannot_be_split_is_named_in_our_words(land, text, says, query, skip):
    with pytest.raises(InputError, match=says) as raised:
        land(text, query=query, skip=skip, outcome_names=("x",))
    shown = raised.value.message + (raised.value.hint or "")
    assert not [word for word in ("sniff", "Possible fixes", "strict_mode") if word in shown]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        pytest.param("who,arm,x\na,A,1\n", {}, "no column is clearly the unit", id="no-unit"),
        pytest.param("user,which,x\na,A,1\n", {}, "no column is clearly the arm", id="no-arm"),
        pytest.param("user,arm,x\na,A,1\n", {"unit": "usr"}, "did you mean 'user'", id="misspelt"),
        pytest.param("user,arm,x\na,A,1\n", {"outcome_names": ("y",)}, "no column in the file 'y'", id="no-outcome"),
        pytest.param("user,arm,x\na,A,1\n", {"outcome_names": ("x:bin",)}, "did you mean 'binary'", id="kind"),
        pytest.param("user,arm,x\na,A,1\n", {"covariates": ("x",)}, "no column holds an outcome", id="nothing-left"),
        pytest.param("user,arm,rows\na,A,1\n", {}, "cannot be called 'rows'", id="reserved"),
        pytest.param("user,arm,x\na,red,1\nb,blue,2\n", {}, "is clearly the baseline", id="no-baseline"),
        pytest.param("user,arm,x\na,red,1\nb,blue,2\n", {"baseline_arm": "rad"}, "did you mean 'red'", id="baseline"),
        pytest.param("user,arm,x\na,baseline,1\nb,B,2\n", {"baseline_arm": "B"}, "cannot be the baseline", id="two"),
        pytest.param("", {}, "is empty", id="empty"),
        pytest.param("user,arm,x\n", {"outcome_names": ("x",)}, "has no row that can be used", id="header-only"),
        pytest.param("user,arm,x,x\na,A,1,2\n", {}, "column 'x' appears twice", id="twice"),
    ],
)
def test_files_that_cannot_be_taken(land, text, options, says):
    with pytest.raises((InputError, UnknownName), match=says):
        land(text, **options)


def test_too_many_arms(land):
    with pytest.raises(InputError, match="has 30 different values, too many for arms"):
        land("user,arm,x\n" + "\n".join(f"u{k},{k},1" for k in range(30)))


def test_a_bad_query_is_the_users_mistake(land):
    with pytest.raises(InputError, match=r"the query over .*o\.csv cannot be run"):
        land(SMALL, query="SELECT nothing FROM outcomes")


def test_of_several_files_a_bad_query_names_the_first(store, tmp_path):
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for path in paths:
        path.write_text(SMALL)
    with pytest.raises(InputError, match=r"the query over .*first\.csv cannot be run"):
        import_outcomes(
            store, Release("r"), [str(path) for path in paths], OutcomeOptions(), query="SELECT nothing FROM outcomes"
        )


def test_compressed_files_with_a_byte_order_mark(store, tmp_path):
    path = tmp_path / "o.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + SMALL.replace(",", ";")).encode()))
    _, facts, _ = import_outcomes(store, Release("r"), [str(path)], OutcomeOptions())
    assert facts.units == 5


UTF16 = SMALL.encode("utf-16")


def pack_zip(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("users.csv", content)
    return packed.getvalue()


def write_ipc(new, content):
    table = pa.csv.read_csv(pa.BufferReader(content), convert_options=pa.csv.ConvertOptions(null_values=["NA", ""]))
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("o.csv", gzip.compress(SMALL.encode(), mtime=0)),
        ("o.csv.gz", SMALL.encode()),
        ("o.bz2", bz2.compress(SMALL.encode())),
        ("o.xz", lzma.compress(SMALL.encode())),
        ("o.zst", pa.compress(SMALL.encode(), "zstd", asbytes=True)),
        ("o.zip", pack_zip(SMALL.encode())),
        ("o.csv", UTF16),
        ("o.gz", gzip.compress(UTF16, mtime=0)),
        ("o.csv", SMALL.encode("utf-32-le")[:0] + b"\xff\xfe\0\0" + SMALL.encode("utf-32-le")),
        ("o.feather", write_ipc(pa.ipc.new_file, SMALL.encode())),
        ("o.arrows", write_ipc(pa.ipc.new_stream, SMALL.encode())),
    ],
)
def test_every_packing_and_encoding_gives_the_same(store, land, tmp_path, name, content):
    _, expected, _ = land(SMALL, release="plain")
    path = tmp_path / f"of a[1] {name}"
    path.write_bytes(content)
    query = "SELECT * FROM outcomes WHERE user_id <> 'u1'"
    for release, options in (("r", {}), ("query", {"query": query})):
        _, facts, _ = import_outcomes(store, Release(release), [str(path)], OutcomeOptions(), **options)
        assert facts.units == expected.units - len(options)
    assert read(store, "r").facts == expected


def test_an_error_names_the_packed_file_and_its_line(store, tmp_path):
    options = OutcomeOptions(outcome_names=("x",))
    for row, says in (("b,B,much", "column 'x' has the value 'much'"), ("b,B,1,2", "the row has 4 values")):
        path = tmp_path / "packed"
        path.write_bytes(gzip.compress(f"user,arm,x\na,A,1\n{row}\n".encode("utf-16")))
        with pytest.raises(InputError, match=f"{path}:3: {says}"):
            import_outcomes(store, Release("r"), [str(path)], options)
        with pytest.raises(InputError) as raised:
            import_outcomes(store, Release("r"), [str(path)], options, query="SELECT nothing FROM outcomes")
        assert "evaluator-tmp" not in raised.value.message


def test_rows_swallowed_by_a_quote_are_counted_or_the_file_is_refused(store, land):
    rows = "".join(f"u{k},{'AB'[k % 2]},{k}\n" for k in range(60_000))
    options = OutcomeOptions(outcome_names=("x",))
    with pytest.raises(InputError, match=r"o\.csv:60002: .*quote.*; the end of its row cannot be found"):
        land("user,arm,x\n" + rows + '"' + rows.replace("u", "v"), skip=True, outcome_names=options.outcome_names)
    tail = "".join(f"v{k},A,{k}\n" for k in range(20))
    _, facts, _ = land("user,arm,x\n" + rows + '"' + tail, skip=True, outcome_names=options.outcome_names)
    assert sum(facts.read.values()) == 60_020


def test_files_of_arms_may_be_packed_and_equal_content_is_found(store, tmp_path):
    for name, content in (
        ("a.gz", gzip.compress(b"user,x\nu1,1\nu2,0\n", mtime=0)),
        ("b.csv", "user,x\nu3,1\nu4,0\nu5,1\n".encode("utf-16")),
        ("c.csv", b"user,x\nu1,1\nu2,0\n"),
    ):
        (tmp_path / name).write_bytes(content)
    arms = {"baseline": [f"{tmp_path}/a.gz"], "canary": [f"{tmp_path}/b.csv"]}
    _, facts, _ = import_outcomes(store, Release("r"), [], OutcomeOptions(), arm_files=arms)
    assert facts.read == {"baseline": 2, "canary": 3}
    with pytest.raises(InputError, match="have the same content"):
        import_outcomes(store, Release("s"), [], OutcomeOptions(), arm_files=arms | {"canary": [f"{tmp_path}/c.csv"]})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (SMALL.encode() + b"x" * (18 << 20) + b",control,1,1,1,1\nu9,control,1,1,1,1\n", r"o:10 is longer than 16 MB"),
        (b'{"user": 1, "arm": "A", "x": 1}\n', "is JSON, which cannot be read as outcomes"),
        (gzip.compress(b"PAR1" + b"\0" * 50, mtime=0), "is a packed Parquet file"),
        (write_ipc(pa.ipc.new_stream, SMALL.encode())[:-8], "is a stream of Arrow without an end"),
        (b"\x04\x22\x4d\x18" + b"\0" * 50, "is packed with lz4"),
    ],
)
def test_files_that_would_be_read_in_part_or_wrongly_are_refused(store, tmp_path, content, says):
    path = tmp_path / "o"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        import_outcomes(store, Release("r"), [str(path)], OutcomeOptions(), skip_bad_rows=True)


def test_several_files_are_one_table(store, tmp_path):
    lines = SMALL.splitlines()
    for name, part in (("a", lines[1:4]), ("b", lines[4:])):
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *part]))
    _, facts, _ = import_outcomes(store, Release("r"), [], OutcomeOptions(), patterns=[f"{tmp_path}/*.csv"])
    assert (facts.rows, facts.units, facts.crossed) == (8, 5, 1)
    (tmp_path / "c.csv").write_text(lines[0] + "\nu9,control,1,0,x,1\n")
    options = OutcomeOptions(outcome_names=("revenue",))
    with pytest.raises(InputError, match=r"c\.csv:2: column 'revenue' has the value 'x'"):
        import_outcomes(store, Release("r"), [], options, patterns=[f"{tmp_path}/*.csv"])


def test_every_row_may_be_a_unit(store, land):
    text = "Unnamed: 0,test group,converted\n0,ad,1\n1,psa,0\n2,ad,1\n3,psa,0\n"
    _, facts, plan = land(text, unit="rows", baseline_arm="psa")
    assert (plan.arm, [column.name for column in plan.columns]) == ("test group", ["converted"])
    assert (facts.units, facts.duplicates, facts.crossed) == (4, 0, 0)
    with pytest.raises(InputError, match=r"o\.csv:3: column 'converted' has the value 'x'"):
        land("group,converted\nA,1\nB,x\n", unit="rows", outcome_names=("converted",))


def test_every_row_is_judged_or_named_by_its_arm(store, land):
    odd = "u7,control,8,maybe,1,1\nu8,,9,1,1,1\nu9,treatment,9,1,1,1,1\nu9,other,9,x,1,1\n"
    _, facts, _ = land(SMALL + odd, skip=True, outcome_names=("converted", "revenue"))
    assert facts.read == {"baseline": 4, "treatment": 5, "": 2, "other": 1}
    assert sorted(facts.left_out, key=str) == sorted(
        [
            LeftOut("baseline", LeftOutKind.BAD_ROW, 1),
            LeftOut("other", LeftOutKind.BAD_ROW, 1),
            LeftOut("", LeftOutKind.BAD_ROW, 2),
            LeftOut("treatment", LeftOutKind.DUPLICATE, 1),
            LeftOut("baseline", LeftOutKind.SEVERAL_ARMS, 1),
            LeftOut("treatment", LeftOutKind.SEVERAL_ARMS, 1),
        ],
        key=str,
    )
    assert read(store).facts == facts
    assert {arm.arm: arm.judged for arm in facts.account()} == {"baseline": 2, "treatment": 3, "": 0, "other": 0}


UNITS = st.sampled_from([*(f"u{k}" for k in range(12)), "", "NA", "ü"])
ARMS = st.sampled_from(["A", "B", "A", "B", "C", "", " "])
VALUES = st.sampled_from(["0", "1", "2.5", "", "NA", "nan", "inf", "1e400", "much", "true", '"a', "0x1", "-3"])
ROW = st.one_of(
    st.tuples(UNITS, ARMS, VALUES, VALUES).map(",".join),
    st.tuples(UNITS, ARMS, VALUES).map(",".join),
    st.tuples(UNITS, ARMS, VALUES, VALUES, VALUES).map(",".join),
    st.sampled_from(["u1,A,1,1", "u2,B,0,1", "u1,A,1,1"]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW.filter(lambda row: '"' not in row), min_size=1, max_size=40))
def test_rows_read_are_rows_judged_and_rows_named(store, tmp_path, rows):
    rows = ["first,A,1,1", "second,B,1,1", *rows]
    path = tmp_path / "odd.csv"
    path.write_text("user,arm,x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    release = Release(f"r{abs(hash(tuple(rows)))}")
    options = OutcomeOptions(outcome_names=("x", "y"))
    _, facts, _ = import_outcomes(store, release, [str(path)], options, skip_bad_rows=True)
    assert sum(facts.read.values()) == len(rows)
    outcomes = read(store, release.id)
    judged = {arm: part.n * part.mean[0] for arm, part in zip(outcomes.arms, outcomes.moments, strict=True)}
    for arm in facts.account():
        assert arm.judged == pytest.approx(judged.get(arm.arm, 0))
        assert arm.read == arm.judged + sum(part.rows for part in arm.left_out)


@pytest.mark.parametrize("damage", ["cut", "turned", "checksum"])
def test_a_damaged_compressed_file_is_named(store, tmp_path, damage):
    compressed = gzip.compress(
        ("user,arm,x\n" + "\n".join(f"u{k},{'AB'[k % 2]},{k % 7}" for k in range(9000))).encode()
    )
    position = {"cut": len(compressed), "turned": len(compressed) // 2, "checksum": len(compressed) - 6}[damage]
    spoilt = (
        compressed[: len(compressed) // 2]
        if damage == "cut"
        else compressed[:position] + bytes([compressed[position] ^ 255]) + compressed[position + 1 :]
    )
    (tmp_path / "a.csv.gz").write_bytes(compressed)
    (tmp_path / "b.csv.gz").write_bytes(spoilt)
    with pytest.raises(InputError, match=r"b\.csv\.gz is cut short or damaged"):
        import_outcomes(store, Release("r"), [], OutcomeOptions(), patterns=[f"{tmp_path}/*.csv.gz"])
    assert store.releases() == ()


def test_a_header_that_no_csv_can_have(land):
    with pytest.raises(InputError, match=r"o\.csv:1: the header line cannot be read"):
        land("user,arm," + "x" * 200_000 + "\na,A,1\n")


def test_facts_of_an_older_store_are_understood():
    old = '{"rows": 8, "units": 5, "duplicates": 1, "duplicates_dropped": true, "crossed": 1, "skipped_rows": 2}'
    facts = facts_from_json(old)
    assert (facts.rows, facts.skipped_rows, facts.units) == (8, 2, 5)
    assert [(arm.arm, arm.read, arm.judged) for arm in facts.account()] == [("", 10, 8)]


def test_looks_before_the_first_at_this_run_come_with_their_sums(store, land):
    from datetime import UTC, datetime

    def look(run, paid):
        store.control.save_verdict("r", "{}", datetime(2026, 1, 1, tzinfo=UTC), "go", outcomes=(run, paid))

    text = "user,arm,spent\n" + "".join(f"u{k},{'AB'[k % 2]},{k}\n" for k in range(10))
    first, _, _ = land(text)
    longer = text + "".join(f"v{k},{'AB'[k % 2]},{k}\n" for k in range(6))
    second, _, _ = land(longer, name="more.csv")
    assert read(store).looks == ()
    look(first.runs[0], "auto")
    look(first.runs[0], "final")
    (earlier,) = read(store).looks
    assert (earlier.run, earlier.units, earlier.paid) == (first.runs[0], 10, "auto")
    # Sizes, means and squared deviations of 0, 2, 4, 6, 8 and of 1, 3, 5, 7, 9.
    assert {arm: sums["spent"] for arm, sums in earlier.sums.items()} == {
        "baseline": pytest.approx((5, 4, 40)), "B": pytest.approx((5, 5, 40))
    }  # fmt: skip
    look(second.runs[0], "auto")
    assert read(store).looks == (earlier,)
