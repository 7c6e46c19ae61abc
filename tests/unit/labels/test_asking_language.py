"""Which descriptions are English, which are refusals, and which repeat themselves."""

import pytest

from deepseemoe.labels.asking.failures import Answer, Fault, is_refusal, loop_of, read_answer
from deepseemoe.labels.asking.failures import repeats_itself as repeats
from deepseemoe.labels.asking.forms import Description
from deepseemoe.labels.asking.language import is_english
from deepseemoe.labels.asking.question import Question

ENGLISH = [
    *("Python keywords", "digits", "French words for family members", "past tense verbs"),
    *('tokens "der", "die", "das"', '"der", "die", "das"', "'el' and 'la'", "`de` `la` `que`"),
    *("“le”, “la” or “les”", "«und» after nouns", "the German article der", "die rolls"),
    *("Los Angeles", "Rio de la Plata", "Rio de Janeiro", "El Niño", "Le Monde", "La La Land"),
    *("de facto", "São Paulo", "Côte d'Ivoire", "names such as O'Brien", "don't, won't"),
    *("café and résumé", "naïve Bayes", "C++ templates", "HTML tags", "JSON", "x", "", "λ"),
    *("mathematical symbols α, β and γ", "the Chinese character 的", "Cyrillic letters like ж"),
    *("LaTeX commands", "import statements", "proper nouns", "legal citations", "von Neumann"),
    *("apologies", "numbers from 0 to 9", "SQL SELECT", "commas", "end of line", "medical terms"),
    *("Spanish conjunction que", "dosage in mg", "do while loops", "com domains", "DNA bases"),
    *("Vincent van Gogh", "Charles de Gaulle", "per capita income", "en route", "a la carte menu"),
]
FOREIGN = [
    *("Wörter der Familie", "die Namen von Städten", "Zahlen und Zeichen", "Verben im Präteritum"),
    *("Wörter in der Familie", "Begriffe für das Recht", "deutsche Artikel wie der und das"),
    *("palabras de la familia", "nombres de ciudades", "números y signos", "verbos en pasado"),
    *("términos legales para el derecho", 'palabras como "the" y "and"', "uso de la coma"),
    *("mots pour la famille", "noms de villes", "les verbes au passé", "chiffres et symboles"),
    *("l'usage de la virgule", "termes liés à la loi", "parole che indicano la famiglia"),
    *(
        "nomi di città",
        "i numeri e i segni della frase",
        "verbi al passato che finiscono con una vocale",
    ),
    *("palavras para a família", "nomes das cidades", "números e sinais em textos"),
    *(
        "woorden voor het gezin",
        "namen van steden",
        "getallen en tekens",
        "een lijst met het woord",
    ),
    *("слова о законе и порядке", "числа", "названия городов", "глаголы прошедшего времени"),
    *(
        "家庭成员的词语",
        "数字",
        "城市名称",
        "法律术语",
        "家族を表す言葉",
        "数字と記号",
        "동사의 과거형",
    ),
    *(
        "أسماء المدن",
        "كلمات العائلة",
        "שמות ערים",
        "ονόματα πόλεων",
        "परिवार के शब्द",
        "คำศัพท์ครอบครัว",
    ),
    *("ord för familjen som är", "navne på byer og det", "słowa dla rodziny oraz nie"),
    *(
        "l'eau et d'autres mots",
        "mots d'une famille",
        "слова «the» и «and»",
        "tokens 的话语和词汇表",
    ),
    *(
        "la ley y el orden",
        "le droit et l'ordre",
        "das Gesetz und die Ordnung",
        "la legge e il diritto",
    ),
    *("a lei e os direitos da família", "de wet en het recht"),
]


def test_there_are_many_of_both():
    assert min(len(ENGLISH), len(FOREIGN)) >= 55


@pytest.mark.parametrize("label", ENGLISH)
def test_english_labels_are_english_whatever_they_quote(label):
    assert is_english(label)


@pytest.mark.parametrize("label", FOREIGN)
def test_labels_in_another_language_are_told(label):
    assert not is_english(label)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I can’t assist with that request.",
        "Sorry, but I cannot do this.",
        "I cannot provide a description of this.",
        "I am unable to label these.",
        "As an AI language model, I do not",
        "I must decline.",
    ],
)
def test_refusals_are_told(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        '"I\'m sorry" and other apologies',
        "apologies such as I'm sorry, but I can't",
        "sorry in apologies",
        "I as a pronoun before cannot",
        "I can't and other contractions",
        "as an adverb",
        "phrases in which a model refuses",
        "",
    ],
)
def test_descriptions_of_refusals_are_none(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "text", ["word word word word", "the law the law the law the law", "na na na na na na na na"]
)
def test_labels_that_repeat_themselves_are_told(text):
    assert repeats(text)


@pytest.mark.parametrize(
    "text",
    [
        "the",
        "the word the",
        '"ha ha ha ha"',
        "bye bye",
        "more and more words",
        "the of and in the of",
    ],
)
def test_labels_with_some_repeated_words_are_none(text):
    assert not repeats(text)


def test_loops_at_the_end_of_a_cut_answer_are_told():
    assert loop_of("It is so: " + "and so on " * 40).strip() == "and so on"
    assert loop_of('{"label": "' + "\n " * 400)
    assert loop_of("…" * 500)
    assert not loop_of(
        "a fine text that was cut off " + "".join(chr(97 + n * 7 % 26) for n in range(99))
    )
    assert not loop_of("ab" * 6)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(""), "empty"),
        (Answer(" \n", finish="length"), "empty"),
        (Answer('{"label": "x"}', refusal="no"), "refused"),
        (Answer("", finish="content_filter"), "refused"),
        (Answer("I'm sorry, but I can't help."), "refused"),
        (Answer('{"label": "I\'m sorry, but I can\'t help."}'), "refused"),
        (Answer("hm"), "unreadable"),
        (Answer('{"label": "" }'), "unreadable"),
        (Answer('{"label": "dog', finish="length"), "unreadable"),
        (Answer("so on " * 99, finish="length"), "repeated"),
        (Answer('{"label": "dog dog dog dog dog"}'), "repeated"),
        (Answer('{"label": "слова о законе"}'), "other_language"),
        (Answer(rejected="too long"), "rejected"),
        (Answer("<p>", is_odd=True), "unreadable"),
    ],
)
def test_every_answer_of_no_use_has_a_name_and_a_reason(answer, status):
    read = read_answer(answer, Question("?", Description))
    assert isinstance(read, Fault)
    assert read.status == status
    assert read.reason
    assert "\n" not in read.reason


def test_reasons_may_be_in_any_words():
    text = '{"reasons": "слова", "label": "words about law"}'
    assert read_answer(Answer(text), Question("?", Description)).label == "words about law"
