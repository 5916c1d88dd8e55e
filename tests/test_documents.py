"""Reading documents: every way a file can be broken is one line that names it, and its line where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_builder.documents import field_path, read_document, schema, schema_problems
from repo_builder.errors import InputError, SpecError
from repo_builder.parsing import unique_object


def refusal(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SpecError) as caught:
        read_document(path, SpecError)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ") and "\n" not in problem
    return problem.removeprefix(f"{path}: ")


def test_yaml_and_json_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, {b: text}]\n")
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, {"b": "text"}]}')
    documents = [read_document(tmp_path / name, InputError) for name in ("a.yaml", "a.json")]
    assert documents == [{"a": [1, 2.5, {"b": "text"}]}] * 2


@pytest.mark.parametrize("number", ["1e-3", "1E5", "-2.5e6", "+1.e+2", ".5e1", "0e0"])
def test_numbers_with_an_exponent_are_numbers_in_yaml_as_in_json(number: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {number}\nb: '{number}'\nc: {number}x\n")
    assert read_document(tmp_path / "a.yaml", InputError) == {"a": float(number), "b": number, "c": f"{number}x"}


def test_yaml_anchors_and_merges_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\n")
    assert read_document(tmp_path / "a.yaml", InputError) == {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.yaml: expected a file, found none"):
        read_document(tmp_path / "no.yaml", SpecError)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read_document(tmp_path, SpecError)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_not_utf8(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, b'{"a": "\xff"}') == "expected UTF-8 text, got byte 0xff at offset 7"


def test_yaml_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.yaml", "a: 1\nb: [1, 2\nc: 3\n").startswith("expected YAML, but line 3: ")


def test_json_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.json", '{"a": 1,\n "b": }').startswith("expected JSON, but line 2: ")


def test_yaml_control_character(tmp_path: Path) -> None:
    assert "special characters are not allowed" in refusal(tmp_path, "a.yaml", "a: \x00")


def test_yaml_tag_that_would_build_an_object(tmp_path: Path) -> None:
    assert "could not determine a constructor" in refusal(tmp_path, "a.yaml", "a: !!python/object/apply:os.getcwd []")


def test_yaml_key_that_is_a_list(tmp_path: Path) -> None:
    assert "unhashable key" in refusal(tmp_path, "a.yaml", "? [1, 2]\n: 3\n")


def test_yaml_date_that_does_not_exist(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.yaml", "a: 2020-13-45").startswith("cannot be parsed: month must be in 1..12")


def test_json_integer_of_thousands_of_digits(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.json", "9" * 5000).startswith("cannot be parsed: ")


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_nested_too_deep(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, "[" * 100_000 + "]" * 100_000).startswith("cannot be parsed: ")


def test_duplicate_key_in_yaml(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.yaml", "x:\n  a: 1\n  a: 2\n") == "a: expected each key once, got it twice at line 2"


def test_duplicate_key_in_json(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.json", '{"x": {"a": 1, "a": 2}}') == "a: expected each key once, got it twice"


def test_schema_is_shipped_and_well_formed() -> None:
    assert schema("spec.schema.json")["title"] == "elasticrec model spec"


def test_field_paths() -> None:
    assert field_path(["tables", 1, "rows"]) == "tables[1].rows"
    assert field_path([]) == "(top level)"


def test_document_that_is_no_mapping() -> None:
    assert schema_problems([1], "spec.schema.json") == ["(top level): expected a mapping, got [1]"]
    assert schema_problems(None, "spec.schema.json") == ["(top level): expected a mapping, got null"]


def test_key_that_is_no_text() -> None:
    assert "7: unknown field; expected one of " in " ".join(schema_problems({7: 1}, "spec.schema.json"))


def test_long_values_are_shortened() -> None:
    problems = schema_problems({"index_dtype": "x" * 500}, "spec.schema.json")
    (problem,) = (p for p in problems if p.startswith("index_dtype"))
    assert problem.endswith("...") and len(problem) < 110


def test_values_that_json_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("interaction: {2020-01-02: x}\nserving: [2020-01-02]\n")
    problems = schema_problems(read_document(tmp_path / "a.yaml", InputError), "spec.schema.json")
    assert any(p.startswith("interaction: expected one of dot, dcn, projection, got") for p in problems)
    assert any(p.startswith("serving: expected a mapping, got") for p in problems)


def test_problems_come_in_file_order() -> None:
    tables = [{"name": "t", "rows": 0, "dim": 1, "pooling": 1} for _ in range(12)]
    problems = schema_problems({"top_mlp": [], "tables": tables, "bottom_mlp": []}, "spec.schema.json")
    fields = [p.split(":")[0] for p in problems if "got none" not in p]
    assert fields == ["top_mlp", *(f"tables[{i}].rows" for i in range(12)), "bottom_mlp"]


def test_alias_inside_what_it_names(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.yaml", "a: 1\nb: &me [*me]\n") == "an alias stands inside what it names, at line 2"


@pytest.mark.parametrize(
    "link", ["a{n}: &a{n} [{aliases}]\n", "a{n}: &a{n} {{{keyed}}}\n", "a{n}: &a{n} {{<<: [{aliases}]}}\n"]
)
def test_alias_bomb(tmp_path: Path, link: str) -> None:
    """Nine aliases a level, seven levels: 9**7 values, as items, as values of keys, as merged mappings."""
    text = "a0: &a0 {k: v}\n"
    for n in range(1, 8):
        aliases = [f"*a{n - 1}"] * 9
        keyed = ", ".join(f"k{i}: {alias}" for i, alias in enumerate(aliases))
        text += link.format(n=n, aliases=", ".join(aliases), keyed=keyed)
    assert refusal(tmp_path, "a.yaml", text).startswith("its aliases stand for ")


def test_many_aliases_of_small_things_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: &a [1, 2, 3]\nb: [{', '.join(['*a'] * 1000)}]\n")
    assert read_document(tmp_path / "a.yaml", InputError) == {"a": [1, 2, 3], "b": [[1, 2, 3]] * 1000}


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_nested_deeper_than_anything_of_ours(tmp_path: Path, name: str) -> None:
    assert "nested deeper than 100 levels" in refusal(tmp_path, name, "[" * 120 + "]" * 120)


class _CountedKey(str):
    """A key that counts how often it is compared."""

    __slots__ = ()
    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        _CountedKey.comparisons += 1
        return str.__eq__(self, str(other))


def test_looking_for_duplicate_keys_is_linear() -> None:
    _CountedKey.comparisons = 0
    unique_object([(_CountedKey(f"key{i}"), i) for i in range(20_000)])
    assert _CountedKey.comparisons < 200_000


@pytest.mark.parametrize("schema_name", ["manifest", "run", "plan", "profile", "cluster", "scaledobject", "spec"])
@pytest.mark.parametrize("wrong", [None, True, [], {}, "text", -1, 1.5, [[]], {"a": {}}])
def test_every_field_of_every_schema_says_its_types(schema_name: str, wrong: object) -> None:
    """Types that are lists, such as number or null, too: whatever the schema says, the wrong value is a message."""
    name = f"{schema_name}.schema.json"
    whole = schema(name)
    for place in [whole, *whole.get("$defs", {}).values()]:
        for field in place.get("properties", {}):
            assert all(": " in problem for problem in schema_problems({field: wrong}, name))


def test_types_that_are_a_list() -> None:
    problems = schema_problems({"sla_ms": "soon", "machine": {"cores": []}}, "run.schema.json")
    assert 'sla_ms: expected a number or null, got "soon"' in problems
    assert "machine.cores: expected a string or an integer, got []" in problems


def test_unknown_field_that_is_a_slip() -> None:
    problems = schema_problems({"bottom_mpl": [1], "Serving": 1, "colour": 1}, "spec.schema.json")
    assert "bottom_mpl: unknown field; did you mean bottom_mlp?" in problems
    assert "Serving: unknown field; did you mean serving?" in problems
    assert any(p.startswith("colour: unknown field; expected one of name, ") for p in problems)


@pytest.mark.parametrize("number", [f"0x{'f' * 3000}", f"-0x{'f' * 3000}", ".inf", ".nan"])
def test_numbers_beyond_all_bounds(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.yaml").write_text(f"serving: {{target_qps: {number}, batch: {number}}}\ndense_features: {number}\n")
    problems = schema_problems(read_document(tmp_path / "a.yaml", InputError), "spec.schema.json")
    assert any(p.startswith("serving.batch: ") for p in problems) and max(map(len, problems)) < 200


def test_yaml_integer_of_thousands_of_digits(tmp_path: Path) -> None:
    told = refusal(tmp_path, "a.yaml", f"a: 1\nb: 0x{'f' * 5000}\n")
    assert told == "expected a number of at most 4300 digits at line 2"


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\udfff": 1}'])
def test_text_that_utf8_cannot_hold(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    problems = schema_problems(read_document(tmp_path / "a.json", InputError), "profile.schema.json")
    assert any("expected text" in p for p in problems)


def test_placing_problems_is_linear() -> None:
    """The keys of a mapping are gone through once, not once for each that is wrong."""

    class Counted(dict[str, object]):
        walks = 0

        def __iter__(self) -> Iterator[str]:
            Counted.walks += 1
            return super().__iter__()

    wrong = Counted({f"key{i}": "no count" for i in range(300)})
    problems = schema_problems({"memory_bytes": wrong}, "run.schema.json")
    assert sum(p.startswith("memory_bytes.key") for p in problems) == 300
    assert Counted.walks < 10


def test_keys_of_several_lines_stay_on_one() -> None:
    problems = schema_problems({"a\nb\x1b[31m": 1}, "spec.schema.json")
    assert any(p.startswith("a\\nb\\x1b[31m: unknown field; ") for p in problems)
    assert all("\n" not in p for p in problems)
