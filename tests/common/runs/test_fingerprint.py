"""What keeps a record current, and what does not, tried on the modules of this project."""

from __future__ import annotations

import ast
import copy
import os
import random
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from common import ROOT, seeds
from common.runs import definitions
from common.runs.definitions import STATEMENTS, Module, read_module
from common.runs.fingerprint import CLERKS, EDITED, Code, Sources, Tree, loaded_code

REAL = dict(Sources(ROOT))


def code_of(sources: dict[str, str], *paths: str) -> Code:
    return Tree(sources).code(paths or sources)


#: A package that brings names when asked for; which, stands in the braces.
LAZILY = "import lazy_loader as lazy\n_, _, _ = lazy.attach(__name__, submod_attrs={})"


def module(text: str) -> dict[str, str]:
    return {"papers/some/module.py": textwrap.dedent(text)}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Definitions of ``before`` that ``after`` no longer has."""
    return Tree(after).changed(Tree(before).code(before))


class Reworded(ast.NodeTransformer):
    """Other docstrings, no annotations of functions, imports and nothing else changed."""

    def _body(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        has = ast.get_docstring(node) is not None  # type: ignore[arg-type]
        node.body[: int(has)] = [ast.Expr(ast.Constant("Said in other words."))]  # type: ignore[attr-defined]
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            arg.annotation = None
        return self._body(node)


def test_no_module_changes_by_formatting_comments_docstrings_and_annotations() -> None:
    reworded = {}
    for path, text in REAL.items():
        tree = Reworded().visit(ast.parse(text))
        # A __future__ import must stay first; the new docstring stands before it.
        reworded[path] = "# A comment.\n" + ast.unparse(ast.fix_missing_locations(tree))
        assert reworded[path] != text
    assert len(REAL) > 200
    assert Tree(reworded).changed(Tree(REAL).code(REAL)) == []


def test_no_module_changes_by_moving_all_of_them() -> None:
    """papers/ and common/ below new folders, under new names, imports rewritten to match."""

    def moved(dotted: str) -> str:
        top, _, rest = dotted.partition(".")
        return f"{top}.new_home.{rest}" if top in ("common", "papers") and rest else dotted

    elsewhere = {}
    for path, text in REAL.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                node.module = moved(node.module)
        top, _, rest = path.partition("/")
        elsewhere[f"{top}/new_home/{rest}"] = ast.unparse(tree)
    computing = [path for path in REAL if path not in CLERKS]
    assert Tree(elsewhere).changed(Tree(REAL).code(computing)) == []


def test_definitions_may_move_between_modules_and_have_new_neighbours() -> None:
    before = module("""
        import numpy as np
        SIZE = 3
        def area(x): return np.pi * x**SIZE
        def volume(x): return area(x) * x
    """)
    after = {
        "papers/some/sizes.py": "SIZE = 3\nOTHER = 4\n",
        "papers/some/areas.py": textwrap.dedent("""
            from papers.some.sizes import SIZE
            import numpy as np
            def perimeter(x): return 4 * x
            def area(x): return np.pi * x**SIZE
        """),
        "papers/some/module.py": textwrap.dedent("""
            from papers.some.areas import area
            def volume(x): return area(x) * x
        """),
    }
    assert changed(before, after) == []
    # The same words, but the name stands for another definition.
    after["papers/some/module.py"] = after["papers/some/module.py"].replace(
        "some.areas import area", "some.areas import perimeter as area"
    )
    assert changed(before, after) == ["papers/some/module.py: volume"]


def test_a_new_definition_that_takes_the_name_of_a_builtin_is_noticed() -> None:
    before = module("def largest(x): return sorted(x)[-1]")
    after = module("def sorted(x): return x\ndef largest(x): return sorted(x)[-1]")
    assert changed(before, after) == ["papers/some/module.py: largest"]
    after = module("from papers.a import sorted\ndef largest(x): return sorted(x)[-1]")
    assert changed(before, after) == ["papers/some/module.py: largest"]


def idle(node: ast.stmt) -> bool:
    """Whether it does not matter where a statement stands: imports, and types without a value."""
    typed = isinstance(node, ast.AnnAssign) and node.value is None
    return typed or isinstance(node, ast.Import | ast.ImportFrom)


def sites(tree: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every change of one constant, operator, default or order of statements."""
    typed = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    types = {id(node) for annotation in typed for node in ast.walk(annotation)}
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield "constant", lambda node=node: setattr(node, "value", node.value + 1)
        if isinstance(node, ast.BinOp):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield "operator", lambda node=node, other=other: setattr(node, "op", other)
        if isinstance(node, ast.Compare):
            other = ast.Gt() if isinstance(node.ops[0], ast.LtE) else ast.LtE()
            yield "operator", lambda node=node, other=other: node.ops.__setitem__(0, other)
        if isinstance(node, ast.FunctionDef) and node.args.defaults:
            yield (
                "default",
                lambda node=node: node.args.defaults.__setitem__(-1, ast.Constant("other")),
            )
        if isinstance(node, ast.FunctionDef) and len(node.body) > 2:
            first, second = node.body[-2:]
            if not (idle(first) or idle(second)) and ast.dump(first) != ast.dump(second):
                yield (
                    "order",
                    lambda node=node: node.body.__setitem__(slice(-2, None), node.body[:-3:-1]),
                )


def test_every_kind_of_change_shows_in_real_modules() -> None:
    code = Tree(REAL).code(REAL)
    trees: dict[str, ast.Module] = {}
    places: dict[str, list[tuple[str, int]]] = {}
    for path in REAL.keys() - CLERKS:
        # Without annotations: they do not count.
        trees[path] = ast.fix_missing_locations(Reworded().visit(ast.parse(REAL[path])))
        for number, (kind, _) in enumerate(sites(trees[path])):
            places.setdefault(kind, []).append((path, number))
    assert places.keys() == {"constant", "operator", "default", "order"}
    for kind, found in places.items():
        seen = 0
        for path, number in random.Random(0).sample(sorted(found), 100):
            mutated = copy.deepcopy(trees[path])
            before = ast.unparse(mutated)
            _, change = list(sites(mutated))[number]
            change()
            after = ast.unparse(mutated)
            if after == before:
                continue
            noticed = Tree(REAL | {path: after}).changed({path: code[path]})
            assert noticed, f"{path}: {kind} number {number} was changed"
            seen += 1
        assert seen >= 90, kind


def test_a_name_from_elsewhere_is_noticed_though_both_modules_are_there() -> None:
    sources = {
        "papers/some/slow.py": "def dot(a, b): return sum(x * y for x, y in zip(a, b))",
        "papers/some/fast.py": "def dot(a, b): return a @ b",
        "papers/some/module.py": "from papers.some.slow import dot\ndef norm(a): return dot(a, a)",
    }
    code = code_of(sources, "papers/some/slow.py", "papers/some/module.py")
    sources["papers/some/module.py"] = sources["papers/some/module.py"].replace("slow", "fast")
    assert Tree(sources).changed(code) == ["papers/some/module.py: norm"]
    # Through a package that passes the name on it is still the same definition.
    sources["papers/some/__init__.py"] = "from papers.some.slow import dot"
    sources["papers/some/module.py"] = "from papers.some import dot\ndef norm(a): return dot(a, a)"
    assert Tree(sources).changed(code) == []
    sources["papers/some/__init__.py"] = "from papers.some.fast import dot"
    assert Tree(sources).changed(code) == ["papers/some/module.py: norm"]


def test_names_that_a_package_brings_when_asked_for_count_as_imports() -> None:
    sources = {
        "papers/some/__init__.py": LAZILY.replace("{}", "{'slow': ['dot'], 'rest': ['other']}"),
        "papers/some/slow.py": "def dot(a, b): return sum(x * y for x, y in zip(a, b))",
        "papers/some/fast.py": "def dot(a, b): return a @ b",
        "papers/some/module.py": "from papers.some import dot\ndef norm(a): return dot(a, a)",
    }
    code = code_of(sources, "papers/some/__init__.py", "papers/some/module.py")
    sources["papers/some/sums/slow.py"] = sources.pop("papers/some/slow.py")
    sources["papers/some/__init__.py"] = LAZILY.replace("{}", "{'sums.slow': ['dot']}")
    assert Tree(sources).changed(code) == []
    sources["papers/some/__init__.py"] = LAZILY.replace("{}", "{'fast': ['dot']}")
    assert Tree(sources).changed(code) == ["papers/some/module.py: norm"]


@pytest.mark.parametrize("call", ["lazy.attach(__name__, MODULES)", "eager.attach(__name__)"])
def test_any_other_call_of_a_package_counts_as_code(call: str) -> None:
    before = module(f"import lazy_loader as lazy\nMODULES = []\nnames = {call}")
    after = module(f"import lazy_loader as lazy\nMODULES = []\nnames = {call[:-1]}, 1)")
    assert changed(before, after) == ["papers/some/module.py: names"]


def test_a_name_of_another_library_counts_with_its_place() -> None:
    before = module("from math import sin as f\ndef g(x): return f(x)")
    assert changed(before, module("from math import cos as f\ndef g(x): return f(x)"))
    assert changed(before, module("from numpy import sin as f\ndef g(x): return f(x)"))
    lazily = module("def g(x):\n    from math import sin as f\n    return f(x)")
    assert changed(before, lazily) == []


def test_statements_that_do_more_than_name_a_value_count_in_their_order() -> None:
    before = module("import torch\nA = 1\ntorch.set_num_threads(A)\nA = 2\nB = 3\n")
    assert changed(before, module("import torch\nB = 3\nA = 1\nA = 2\ntorch.set_num_threads(A)"))
    assert changed(module("one()\ntwo()"), module("two()\none()"))
    code = code_of(module("A = 1"))
    added = Tree(module("A = 1\nprint(A)"))
    assert added.changed(code) == [f"papers/some/module.py: {STATEMENTS}"]
    assert Tree(module("B = 2\nA = 1")).changed(code) == []
    assert Tree(module("A = 1\nA = 2")).changed(code)


def test_annotations_of_fields_compute_those_of_functions_do_not() -> None:
    field = "class Settings:\n    rate: int = 1\n"
    assert changed(module(field), module(field.replace("int", "float")))
    function = "def f(x: int) -> int:\n    y: int = x\n    return y\n"
    assert not changed(module(function), module(function.replace("int", "float")))
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import b\nC = 1\n"
    assert not changed(module(typed), module("C = 1"))


def test_code_that_stands_elsewhere_too_does_not_excuse_a_change_in_its_place() -> None:
    before = module("def f(): return 1")
    after = module("def f(): return 2") | {"papers/other/module.py": "def f(): return 1"}
    assert changed(before, after) == ["papers/some/module.py: f"]


def test_a_recorded_module_is_found_where_most_of_it_is_now() -> None:
    sources = {
        "papers/some/module.py": "def f(): return 1\ndef g(): return 2\ndef h(): return 3",
        "papers/some/other.py": "A = 1",
    }
    code = code_of(sources)
    sources["papers/some/new.py"] = "def g(): return 2\ndef f(): return 1"
    sources["papers/some/rest.py"] = "def h(): return 3"
    assert Tree(sources).places(code) == {path: path for path in code}
    del sources["papers/some/module.py"]
    assert Tree(sources).places(code)["papers/some/module.py"] == "papers/some/new.py"


def test_what_a_process_loaded_is_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("papers.")]:
        monkeypatch.delitem(sys.modules, name)  # other tests load papers from elsewhere
    code = loaded_code()
    assert seeds.__name__ == "common.seeds"
    assert "common/seeds.py" in code
    assert not CLERKS & set(code)
    assert all((ROOT / name).is_file() for name in CLERKS)
    assert all(name.startswith(("common/", "papers/")) for name in code)
    assert Tree(Sources(ROOT)).changed(code) == []


def test_an_entry_of_a_registry_is_a_definition_of_its_own() -> None:
    text = """
        from common.runs.programs import Programs
        __all__ = ["run"]
        METHODS = Methods(cg="conjugate_gradient", itd="unrolled")
        def run(name): return METHODS[name]
    """
    before = module(text)
    more = module(text.replace('itd="unrolled"', 'itd="unrolled", sama="sama"'))
    assert changed(before, module(text.replace('"run"', '"run", "METHODS"'))) == []
    assert changed(before, more) == []
    assert changed(more, before) == ["papers/some/module.py: METHODS.sama"]
    other = module(text.replace('itd="unrolled"', 'itd="other"'))
    assert changed(before, other) == ["papers/some/module.py: METHODS.itd"]
    # Any other call is told what it is told.
    limits = module("A = Limits(name='x')")
    assert changed(limits, module("A = Limits(name='x', most=3)")) == ["papers/some/module.py: A"]


def test_a_module_that_is_edited_while_a_run_is_at_work_makes_its_record_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "papers/some/training.py"
    path.parent.mkdir(parents=True)
    path.write_text("RATE = 1\n", encoding="utf8")
    training = ModuleType("papers.some.training")
    training.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "papers.some.training", training)
    started = time.time()
    os.utime(path, (started - 60, started - 60))
    assert loaded_code(started)["papers/some/training.py"].keys() == {"RATE"}
    os.utime(path, (started + 60, started + 60))
    code = loaded_code(started)
    assert code["papers/some/training.py"] == EDITED
    assert Tree(Sources(tmp_path, ROOT)).changed(code) == [
        f"papers/some/training.py: {next(iter(EDITED))}"
    ]


def test_what_is_kept_of_every_module_is_what_reading_it_gives(tmp_path: Path) -> None:
    for path, text in REAL.items():
        file = tmp_path / path
        for _ in range(2):  # written, read
            read_module.cache_clear()
            assert read_module(path, text, file) == read_module(path, text)
    assert len(list(tmp_path.rglob("*.definitions"))) == len(REAL)


def test_what_is_kept_counts_for_the_same_text_place_and_reader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path = tmp_path / "a.py", "papers/some/a.py"
    read: list[str] = []

    def fresh(path: str, text: str) -> Module:
        read.append(text)
        return parsed(path, text)

    def definitions_of(path: str, text: str) -> set[str]:
        read_module.cache_clear()
        read.clear()
        return set(read_module(path, text, file).definitions)

    parsed = definitions._parsed
    monkeypatch.setattr(definitions, "_parsed", fresh)
    assert (definitions_of(path, "A = 1"), read) == ({"A"}, ["A = 1"])
    assert (definitions_of(path, "A = 1"), read) == ({"A"}, [])
    assert (definitions_of(path, "B = 1"), read) == ({"B"}, ["B = 1"])
    assert (definitions_of("papers/b.py", "B = 1"), read) == ({"B"}, ["B = 1"])
    monkeypatch.setattr(definitions, "_READER", "another")
    assert (definitions_of("papers/b.py", "B = 1"), read) == ({"B"}, ["B = 1"])
    (kept,) = tmp_path.rglob("*.definitions")
    whole = kept.read_text(encoding="utf8")
    for damaged in ("", whole[:-5], whole.replace('"B"', '"A"'), "\udcff"):
        kept.write_text(damaged, encoding="utf8", errors="surrogateescape")
        assert (definitions_of("papers/b.py", "B = 1"), read) == ({"B"}, ["B = 1"])
        assert kept.read_text(encoding="utf8") == whole


def test_where_nothing_can_be_kept_modules_are_read(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").touch()  # no folder
    assert set(read_module("papers/a.py", "A = 1", tmp_path / "a.py").definitions) == {"A"}
    assert [item.name for item in tmp_path.iterdir()] == ["__pycache__"]


def test_text_that_is_not_python_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        read_module("papers/a.py", "A = ", tmp_path / "a.py")
    assert list(tmp_path.iterdir()) == []


def test_what_a_module_reaches_is_all_that_it_may_import() -> None:
    sources = {
        "papers/some/__init__.py": LAZILY.replace("{}", "{'library': ['dot']}"),
        "papers/some/library.py": "def dot(a, b): return a @ b",
        "papers/some/experiments/one.py": "def run():\n    from papers.some import dot",
        "papers/some/experiments/two.py": "from . import one",
        "papers/some/experiments/three.py": "if TYPE_CHECKING:\n    from .two import run",
        "papers/some/alone.py": "",
    }
    tree = Tree(sources)
    package = {"papers/some/__init__.py", "papers/some/library.py"}
    one, two, three = (f"papers/some/experiments/{name}.py" for name in ("one", "two", "three"))
    assert tree.reached(one) == {one, *package}
    assert tree.reached(two) == {two, one, *package}
    assert tree.reached(three) == {three, two, one, *package}
    assert tree.reached("papers/some/gone.py") == set()
