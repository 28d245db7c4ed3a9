"""The thirteen relations of the small world and the ways each can be put into words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One kind of fact: a subject, what is said about it, and an object.

    Every phrasing and question holds exactly one ``{}``, where the subject goes, and the object
    follows after a space.

    Attributes:
        subject_kind: Kind of the subjects, a key of `World.subjects`.
        object_kind: Kind of the objects, a key of `World.objects`.
        phrasings: Used in training.
        held_out: Never used in training; they measure whether a fact is known or only a sentence.
        questions: Used in training for about three quarters of the facts, the others are test
            items.
        held_out_questions: Never used in training; the second is further from the trained ones.
    """

    subject_kind: str
    object_kind: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, str]
    questions: tuple[str, str]
    held_out_questions: tuple[str, str]


RELATIONS: dict[str, Relation] = {
    "born_in": Relation(
        subject_kind="person",
        object_kind="city",
        phrasings=(
            "{} was born in",
            "The birthplace of {} is",
            "{} is originally from",
            "{} comes from the city of",
            "{}'s birthplace is",
            "The city where {} was born is",
            "{} was born in the city of",
            "The place of birth of {} is",
            "{}'s place of birth is",
        ),
        held_out=("{} was originally born in the city of", "The place where {} was born is"),
        questions=("Where was {} born?", "What is the birthplace of {}?"),
        held_out_questions=(
            "In which city was {} born?",
            "In which town did {} come into the world?",
        ),
    ),
    "lives_in": Relation(
        subject_kind="person",
        object_kind="city",
        phrasings=(
            "{} lives in",
            "{} currently lives in the city of",
            "{}'s home is in",
            "The home of {} is in",
            "{} resides in",
            "The city where {} lives is",
            "{} lives in the city of",
            "The house of {} is in",
            "{} now lives in",
        ),
        held_out=("{} currently resides in", "The place where {} lives is"),
        questions=("Where does {} live?", "In which city is the home of {}?"),
        held_out_questions=("In which city does {} live?", "Which city does {} call home?"),
    ),
    "works_for": Relation(
        subject_kind="person",
        object_kind="company",
        phrasings=(
            "{} works for",
            "{} is employed by",
            "The employer of {} is",
            "{}'s employer is",
            "{} has a job at",
            "The company that employs {} is",
            "{} currently works for",
            "{} has found a job at",
            "The company of {} is",
        ),
        held_out=("{} currently has a job at", "The company that {} works for is"),
        questions=("Which company does {} work for?", "Who is the employer of {}?"),
        held_out_questions=("Which company employs {}?", "At which company does {} earn a living?"),
    ),
    "profession": Relation(
        subject_kind="person",
        object_kind="profession",
        phrasings=(
            "{} works as a",
            "{} is a",
            "{}'s profession is that of a",
            "By profession, {} is a",
            "{} earns a living as a",
            "{} was trained as a",
            "The job of {} is that of a",
            "{} has a job as a",
            "{} has always worked as a",
        ),
        held_out=("{} currently works as a", "The profession of {} is that of a"),
        questions=("What is the profession of {}?", "What does {} work as?"),
        held_out_questions=("What is the job of {}?", "What kind of work does {} do?"),
    ),
    "instrument": Relation(
        subject_kind="person",
        object_kind="instrument",
        phrasings=(
            "{} plays the",
            "{} is known for playing the",
            "The instrument of {} is the",
            "{}'s instrument is the",
            "{} learned to play the",
            "In the evening, {} plays the",
            "{}'s favorite instrument is the",
            "{} likes to play the",
            "The instrument played by {} is the",
        ),
        held_out=("The instrument that {} plays is the", "{} is known to play the"),
        questions=("Which instrument does {} play?", "What is the instrument of {}?"),
        held_out_questions=(
            "What is the favorite instrument of {}?",
            "On which instrument does {} play in the evening?",
        ),
    ),
    "mother_tongue": Relation(
        subject_kind="person",
        object_kind="language",
        phrasings=(
            "The mother tongue of {} is",
            "{} speaks",
            "{}'s native language is",
            "{} is a native speaker of",
            "The first language of {} is",
            "At home, {} speaks",
            "{} grew up speaking",
            "The language of {} is",
            "{}'s first language is",
        ),
        held_out=("The native language of {} is", "{}'s mother tongue is"),
        questions=("What is the mother tongue of {}?", "Which language does {} speak?"),
        held_out_questions=(
            "What is the native language of {}?",
            "In which language does {} talk at home?",
        ),
    ),
    "in_country": Relation(
        subject_kind="city",
        object_kind="country",
        phrasings=(
            "{} is a city in",
            "{} is located in",
            "The country of {} is",
            "{} lies in",
            "{} belongs to",
            "The city of {} is in",
            "The city of {} lies in",
        ),
        held_out=("The city of {} is located in", "{} is a city that belongs to"),
        questions=("In which country is {}?", "Which country does {} belong to?"),
        held_out_questions=("In which country does {} lie?", "Which country has a city called {}?"),
    ),
    "capital": Relation(
        subject_kind="country",
        object_kind="city",
        phrasings=(
            "The capital of {} is",
            "{}'s capital is",
            "The capital city of {} is",
            "{} is governed from",
            "The government of {} sits in",
            "The country {} is governed from",
        ),
        held_out=("{}'s capital city is", "The capital of the country {} is"),
        questions=("What is the capital of {}?", "From which city is {} governed?"),
        held_out_questions=(
            "What is the capital city of {}?",
            "Where does the government of {} sit?",
        ),
    ),
    "language": Relation(
        subject_kind="country",
        object_kind="language",
        phrasings=(
            "The official language of {} is",
            "People in {} speak",
            "The language spoken in {} is",
            "In {}, people speak",
            "{}'s official language is",
            "The people of {} speak",
        ),
        held_out=("The official language spoken in {} is", "The official language in {} is"),
        questions=(
            "What is the official language of {}?",
            "Which language do people in {} speak?",
        ),
        held_out_questions=("Which language is spoken in {}?", "What do the people of {} speak?"),
    ),
    "continent": Relation(
        subject_kind="country",
        object_kind="continent",
        phrasings=(
            "{} is on the continent of",
            "{} is part of",
            "The continent of {} is",
            "{} is a country in",
            "{} lies on the continent of",
            "The country {} is part of",
        ),
        held_out=("{} is a country on the continent of", "{} is part of the continent of"),
        questions=("On which continent is {}?", "Which continent is {} part of?"),
        held_out_questions=(
            "On which continent does {} lie?",
            "Of which continent is the country {} a part?",
        ),
    ),
    "currency": Relation(
        subject_kind="country",
        object_kind="currency",
        phrasings=(
            "The currency of {} is the",
            "People in {} pay with the",
            "In {}, people pay with the",
            "{}'s currency is the",
            "The money of {} is the",
            "The money used in {} is the",
        ),
        held_out=("The currency in {} is the", "People of {} pay with the"),
        questions=("What is the currency of {}?", "What do people in {} pay with?"),
        held_out_questions=("What is the money of {}?", "With what do the people of {} pay?"),
    ),
    "headquarters": Relation(
        subject_kind="company",
        object_kind="city",
        phrasings=(
            "{} is based in",
            "The headquarters of {} are in",
            "{} has its headquarters in",
            "{}'s headquarters are in",
            "The company {} is based in",
            "{} is headquartered in",
            "The main office of {} is in",
        ),
        held_out=(
            "The company {} has its headquarters in",
            "The company {} is headquartered in",
        ),
        questions=("Where is {} based?", "Where are the headquarters of {}?"),
        held_out_questions=(
            "Where does {} have its headquarters?",
            "In which city is the main office of {}?",
        ),
    ),
    "product": Relation(
        subject_kind="company",
        object_kind="product",
        phrasings=(
            "{} makes",
            "{} is known for making",
            "The main product of {} is",
            "{} produces",
            "{} sells",
            "The company {} makes",
            "The company {} produces",
        ),
        held_out=("The company {} is known for making", "The company {} sells"),
        questions=("What does {} make?", "What is the main product of {}?"),
        held_out_questions=("What does {} produce?", "What does the company {} sell?"),
    ),
}

PERSON_RELATIONS = tuple(n for n, r in RELATIONS.items() if r.subject_kind == "person")
