"""The kit through a generator of broken samplers: each is refused by the check that the mutation names, naming the fault."""

import re
from collections import Counter

import pytest

from kits import checks, conformance, of
from mutants import BASES, CALLS, TABLES, Base, Mutant, mutants, refusal

# Some of the broken tables divide by zero on the way to being refused.
pytestmark = [pytest.mark.promise(48), pytest.mark.filterwarnings("ignore::RuntimeWarning")]

SURVIVORS = {
    # Larger noise is allowed by keeps_variance = False, and the error of a millionth is below that of any number of steps.
    ("ddpm_large", "a_off_by_a_millionth"),
}


def complaint(mutant: Mutant) -> str | None:
    """What is wrong with how the kit treats a mutant; None where it refuses it and names the fault."""
    found = refusal(mutant.kit, mutant.mutation.checks)
    name = f"{mutant.base}, {mutant.mutation.name}"
    if (mutant.base, mutant.mutation.name) in SURVIVORS:
        return None if found is None else f"{name}: is refused, take it off the list of survivors"
    if found is None:
        return f"{name}: passes {', '.join(mutant.mutation.checks)}"
    return None if re.search(mutant.mutation.fault, found[1]) else f"{name}: {found[0]} names another fault: {found[1]}"


def test_a_fourth_of_the_mutants() -> None:
    """Every mutation, on one sampler of four, another one for each."""
    made = list(mutants(each=4))
    assert len(made) >= 300
    complaints = [text for mutant in made if (text := complaint(mutant))]
    assert not complaints, "\n".join(complaints)


@pytest.mark.slow
def test_every_mutant() -> None:
    made = list(mutants())
    assert len(made) >= 1200
    assert min(Counter(mutant.base for mutant in made).values()) >= 20
    complaints = [text for mutant in made if (text := complaint(mutant))]
    assert not complaints, "\n".join(complaints)


def test_names_are_unique_and_checks_exist() -> None:
    names = [mutation.name for mutation in (*TABLES, *CALLS)]
    assert len(names) == len(set(names)) >= 20
    kit = conformance(of(BASES[0].kind))
    assert {name for mutation in (*TABLES, *CALLS) for name in mutation.checks} <= set(checks(kit))


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_the_unbroken_samplers_pass(base: Base) -> None:
    """What the mutants are made of is sound: what is refused is the mutation."""
    kit = conformance(of(base.kind, **base.settings), **base.attributes)
    found = refusal(kit, tuple(checks(kit)))
    assert found is None, found
