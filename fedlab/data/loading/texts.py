"""Texts with subjects, and terms with the codes they stand for: loading, each file's hash checked.

Two collections whose subjects give retrieval a truth (a hit is right if it is on the query's
subject), and one classification whose synonyms give it a sharper one (there is one right code).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element, fromstring

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import I64
from fedlab.core.validation import read_only
from fedlab.data.loading.loaders import expect
from fedlab.data.loading.pull import opened
from fedlab.data.loading.registry import DataError, Member, Origin, Source, source

_HEADER = ("Category\tText", "d\tstring", "class\t")


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with a subject each. Arrays are read-only.

    Attributes
    ----------
    texts : tuple of str
        n texts.
    y : ndarray of int64, shape (n,)
        Each text's subject, as a position in `classes`.
    classes : tuple of str
        The subjects' names.
    origin : Origin

    Raises
    ------
    ValueError
        If there is not one subject, of those named, for each text.

    Examples
    --------
    >>> here = Origin("made by hand", "", "0" * 64, 2, "", "")
    >>> texts = Texts(("a goal", "a disk"), np.array([1, 0]), ("computers", "sport"), here)
    >>> texts.take(np.array([0])).texts, texts.classes[texts.y[0]], len(texts)
    (('a goal',), 'sport', 2)
    """

    texts: tuple[str, ...]
    y: I64
    classes: tuple[str, ...]
    origin: Origin

    def __post_init__(self) -> None:
        y = _positions(self.y, len(self.texts), len(self.classes), "y", "texts", "classes")
        object.__setattr__(self, "y", y)

    def take(self, rows: I64) -> Texts:
        """Return some of the texts, in the order given."""
        return replace(self, texts=tuple(self.texts[row] for row in rows), y=self.y[rows])

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Terms:
    """A classification: codes with descriptions, in chapters, and other terms for them.

    Attributes
    ----------
    codes, descriptions : tuple of str
        n codes and what each means, in the order of the classification.
    chapter : ndarray of int64, shape (n,)
        Each code's chapter, as a position in `chapters`.
    chapters : tuple of str
        The chapters' titles.
    terms : tuple of str
        m other terms. One that stands under several codes is here once for each.
    code : ndarray of int64, shape (m,)
        The code that each term stands under, as a position in `codes`.
    origin : Origin

    Raises
    ------
    ValueError
        If lengths or positions don't fit together.

    Examples
    --------
    >>> here = Origin("made by hand", "", "0" * 64, 2, "", "")
    >>> terms = Terms(
    ...     codes=("A00", "J00"), descriptions=("Cholera", "Acute nasopharyngitis"),
    ...     chapter=np.array([0, 1]), chapters=("Infections", "Respiratory system"),
    ...     terms=("Common cold",), code=np.array([1]), origin=here,
    ... )
    >>> terms.codes[terms.code[0]], terms.chapters[terms.chapter[terms.code[0]]]
    ('J00', 'Respiratory system')
    """

    codes: tuple[str, ...]
    descriptions: tuple[str, ...]
    chapter: I64
    chapters: tuple[str, ...]
    terms: tuple[str, ...]
    code: I64
    origin: Origin

    def __post_init__(self) -> None:
        n, m = len(self.codes), len(self.terms)
        if len(self.descriptions) != n:
            raise ValueError(f"there are {n} codes but {len(self.descriptions)} descriptions")
        chapter = _positions(self.chapter, n, len(self.chapters), "chapter", "codes", "chapters")
        object.__setattr__(self, "chapter", chapter)
        object.__setattr__(self, "code", _positions(self.code, m, n, "code", "terms", "codes"))

    def __len__(self) -> int:
        return len(self.codes)


def load_newsgroups() -> tuple[Texts, Texts]:
    """Load 20 Newsgroups: messages by subject, split by date.

    Words are in lower case, digits and marks are gone; words of addresses and signatures are not,
    so that a subject can be told by who writes. Seven texts stand in both parts of the file: they
    are left out of the first, so that the second is that of the literature.

    Returns
    -------
    train, test : Texts
        11,286 and 7,528 messages of 20 subjects.

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        train, test = load_newsgroups()
        train.texts[0][:40], train.classes[train.y[0]]
    """
    return _collection("newsgroups", (11_293, 7_528))


def load_reuters() -> tuple[Texts, Texts]:
    """Load Reuters R8: newswire stories on eight subjects, split by date (ModApte).

    Words are in lower case, digits and marks are gone. More than half of the stories are on
    earnings. Four texts stand in both parts of the file: they are left out of the first (five
    rows), so that the second is that of the literature.

    Returns
    -------
    train, test : Texts
        5,480 and 2,189 stories of 8 subjects.

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        train, test = load_reuters()
        np.bincount(test.y)
    """
    return _collection("reuters", (5_485, 2_189))


def load_icd10() -> Terms:
    """Load ICD-10-CM: diagnosis codes in 22 chapters, with inclusion terms for many of them.

    The terms are the tabular list's own ("Common cold" under J00, *Acute nasopharyngitis*). Most
    are synonyms; some name a special case of the code, and a few are notes for the person who
    codes. 36 stand under two codes or more.

    Returns
    -------
    Terms
        46,881 codes and 12,569 terms.

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        icd = load_icd10()
        icd.terms[0], icd.codes[icd.code[0]]  # ('Classical cholera', 'A00.0')
    """
    what = source("icd10")
    with opened(what, what.members[0]) as handle:
        chapters = _parsed(handle.read(), "icd10").findall("chapter")
    codes: list[str] = []
    described: list[str] = []
    chapter: list[int] = []
    terms: list[str] = []
    target: list[int] = []
    for place, part in enumerate(chapters):
        for entry in part.iter("diag"):
            notes = [str(note.text) for note in entry.iterfind("inclusionTerm/note")]
            terms += notes
            target += [len(codes)] * len(notes)
            codes.append(entry.findtext("name", ""))
            described.append(entry.findtext("desc", ""))
            chapter.append(place)
    counts = (len(chapters), len(set(codes)), len(terms))
    expect(counts == (22, 46_881, 12_569), "icd10", f"{counts} chapters, codes and terms")
    expect("" not in codes and "" not in described, "icd10", "codes without name or description")
    return Terms(
        codes=tuple(codes),
        descriptions=tuple(described),
        chapter=np.array(chapter),
        chapters=tuple(part.findtext("desc", "") for part in chapters),
        terms=tuple(terms),
        code=np.array(target),
        origin=what.origin_of(len(codes)),
    )


def _collection(name: str, rows: tuple[int, int]) -> tuple[Texts, Texts]:
    what = source(name)
    train, test = (list(_rows_of(what, member)) for member in what.members)
    counts = (len(train), len(test))
    expect(counts == rows, name, f"{counts} rows")
    held_back = {text for _, text in test}
    train = [row for row in train if row[1] not in held_back]
    classes = tuple(sorted({subject for subject, _ in test}))
    unknown = {subject for subject, _ in train} - set(classes)
    expect(not unknown, name, f"subjects {unknown} that the second part does not have")
    return _texts(what, what.members[0], train, classes), _texts(
        what, what.members[1], test, classes
    )


def _rows_of(what: Source, member: Member) -> Iterator[tuple[str, str]]:
    """Yield (subject, text) of a ``.tab`` file: three lines of header, then two fields a line."""
    with opened(what, member) as handle:
        lines = handle.read().decode().split("\n")
    expect(tuple(lines[:3]) == _HEADER, what.name, f"a header of {lines[:3]}")
    for line in lines[3:]:
        fields = line.split("\t")
        if len(fields) == 2:
            yield fields[0], fields[1]


def _texts(
    what: Source, member: Member, rows: list[tuple[str, str]], classes: tuple[str, ...]
) -> Texts:
    at = {subject: place for place, subject in enumerate(classes)}
    return Texts(
        texts=tuple(text for _, text in rows),
        y=np.array([at[subject] for subject, _ in rows]),
        classes=classes,
        origin=what.origin_of(len(rows), member.sha256),
    )


def _parsed(document: bytes, name: str) -> Element:
    """Parse XML that declares nothing: without a document type no entity can be expanded."""
    if b"<!DOCTYPE" in document:
        raise DataError(f"{name!r} holds a document type declaration, and is not read")
    return fromstring(document)


def _positions(values: ArrayLike, n: int, bound: int, what: str, rows: str, named: str) -> I64:
    array = np.asarray(values, dtype=np.int64)
    if array.shape != (n,):
        raise ValueError(f"{what} has shape {array.shape}; with {n} {rows} it takes ({n},)")
    if array.size and not 0 <= array.min() <= array.max() < bound:
        raise ValueError(
            f"{what} holds {array.min()} ... {array.max()}; with {bound} {named} it takes "
            f"0 ... {bound - 1}"
        )
    return read_only(array)
