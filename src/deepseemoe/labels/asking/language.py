"""Whether a description is in English, told carefully: descriptions quote other languages.

What stands in quotes does not count. A description is of another language where most letters are
of another script, or where words that hold other languages together occur and no English ones do.
"""

import re
import unicodedata

QUOTED = re.compile(
    r"\"[^\"]*\"|`[^`]*`|“[^”]*[”“]|„[^“”]*[“”]|«[^»]*»|»[^«]*«|‘[^’]*’|「[^」]*」|『[^』]*』|《[^》]*》"
    r"|(?<!\w)'[^']*'(?!\w)"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENGLISH = _words(
    """the and with that this these those or by from about for are be which where when whose what
    who not before after during between into over under such like than its their his her it they
    used using use word words token tokens term terms phrase phrases names numbers texts character
    characters letter letters symbols punctuation noun nouns verb verbs pronoun pronouns article
    articles adjective adjectives adverbs preposition prepositions conjunctions suffix prefix
    reference references referring mention mentions related language languages english french german
    spanish italian portuguese dutch russian chinese japanese korean first beginning sentence
    sentences keyword keywords function functions variable variables family members"""
)
"""Words of English descriptions, hardly any usual elsewhere. One suffices, as to call an English
description foreign is the worse mistake."""

_CONTENT = _words(
    """palabras palabra nombres números número verbos términos frases mots noms chiffres verbes
    wörter wort namen zahlen begriffe verben sätze zeichen parole nomi numeri verbi termini palavras
    nomes termos woorden getallen werkwoorden słowa"""
)
"""Foreign words that are no part of a name, as `Rio de la Plata` has them"""

FOREIGN = _CONTENT | _words(
    """el los las del una unos unas y que por para con sobre como entre cuando donde desde hasta
    le la les des du et une dans pour avec sur aux qui ou par sont est ce cette ces leur liés liées
    der die das und von mit für ist eine einer eines einem ein den dem im auf zu zur zum oder nicht
    il lo gli della dello dei degli delle di che per nel nella sono alla
    os da dos das em uma com ao aos não são à às um
    de het een van voor met en zijn niet
    och att som för av på ett det er til ikke og
    nebo oraz jest się dla nie przez"""
)
"""Words that hold sentences of other languages together, and such as descriptions begin with"""


def is_english(text: str) -> bool:
    """Return whether a description may be English; true where there is too little to tell."""
    bare = QUOTED.sub(" ", unicodedata.normalize("NFC", text))
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", bare)
    letters = "".join(word for word in words if len(word) > 1)
    n_latin = sum(_is_latin(letter) for letter in letters)
    if 2 * n_latin < len(letters):
        return False
    lower = [word.lower() for word in words]
    if ENGLISH & set(lower):
        return True
    foreign = [word for word in words if word.lower() in FOREIGN or _is_elided(word)]
    if len(foreign) < 2:
        return True
    content = [word for word in words if word.lower() not in FOREIGN]
    is_name = all(word[0].isupper() for word in content) and not _CONTENT & set(lower)
    return bool(content) and is_name and len(foreign) == 2


def _is_latin(letter: str) -> bool:
    return ord(letter) < 128 or unicodedata.name(letter, "").startswith("LATIN")


def _is_elided(word: str) -> bool:
    """Return whether a word is as French or Italian `l'eau`, `d'une`, `dell'acqua`."""
    return re.match(r"(?:[ldnsjmtc]|qu|dell|nell|all)['’]\w{2}", word.lower()) is not None
