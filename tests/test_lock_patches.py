"""Replacing the host's functions: once, in any order, and undone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

from branchfit_webui.patches import Patch


def around(tag: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def make(inner: Callable[[], str]) -> Callable[[], str]:
        return lambda: f"{tag}({inner()})"

    return make


def plain() -> str:
    return "host"


def test_it_wraps_what_stands_there_and_puts_it_back() -> None:
    module = SimpleNamespace(generate=plain)
    patch = Patch("generate", module, "generate", around("lock"))
    assert patch.put() and patch.stands()
    assert module.generate() == "lock(host)"
    patch.undo()
    assert module.generate is plain and not patch.stands()


def test_twice_is_once() -> None:
    module = SimpleNamespace(generate=plain)
    patch = Patch("generate", module, "generate", around("lock"))
    patch.put()
    ours = module.generate
    patch.put()
    assert module.generate is ours and module.generate() == "lock(host)"


def test_another_copy_of_the_package_takes_its_place_and_does_not_pile_up() -> None:
    table = {"reply": plain}
    Patch("reply", table, "reply", around("old")).put()
    Patch("reply", table, "reply", around("new")).put()
    assert table["reply"]() == "new(host)"


def test_what_another_extension_put_over_it_is_wrapped_again() -> None:
    module = SimpleNamespace(generate=plain)
    patch = Patch("generate", module, "generate", around("lock"))
    patch.put()
    theirs = around("theirs")(module.generate)
    module.generate = theirs
    assert patch.put()
    assert module.generate() == "lock(theirs(lock(host)))"
    patch.undo()
    assert module.generate is theirs


def test_undoing_leaves_another_extensions_wrapper_alone() -> None:
    module = SimpleNamespace(generate=plain)
    patch = Patch("generate", module, "generate", around("lock"))
    patch.put()
    theirs = around("theirs")(module.generate)
    module.generate = theirs
    patch.undo()
    assert module.generate is theirs


def test_a_wrapper_that_copies_our_marks_is_not_taken_for_ours() -> None:
    module = SimpleNamespace(generate=plain)
    patch = Patch("generate", module, "generate", around("lock"))
    patch.put()
    theirs = functools.wraps(module.generate)(around("theirs")(plain))
    module.generate = theirs
    assert not patch.stands()
    assert patch.put() and module.generate() == "lock(theirs(host))"
    patch.undo()
    assert module.generate is theirs


def test_nothing_to_replace_is_said_and_not_made_up() -> None:
    assert not Patch("gone", SimpleNamespace(), "gone", around("lock")).put()
    assert not Patch("gone", {}, "gone", around("lock")).put()
    assert not Patch("text", SimpleNamespace(text="no function"), "text", around("lock")).put()


def test_an_object_that_takes_no_attributes_is_told() -> None:
    class Fixed:
        __slots__ = ()

        def generate(self) -> str:
            return "host"

    assert not Patch("model.generate", Fixed(), "generate", around("lock")).put()
