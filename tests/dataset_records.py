"""Small made-up records in the published schemas of edit data sets; none of them is from a data set."""

FLAT = {
    "case_id": 3,
    "prompt": "The mother tongue of Ada Quill is",
    "target_new": "Dutch",
    "subject": "Ada Quill",
    "ground_truth": "Welsh",
    "rephrase_prompt": "Where Ada Quill is from, people speak",
    "locality_prompt": "Bo Marsh is a native speaker of",
    "locality_ground_truth": "Welsh",
}
ZSRE = {
    "subject": "Ada Quill",
    "src": "What country is Ada Quill from?",
    "pred": "Chile",
    "rephrase": "Which country is Ada Quill from?",
    "alt": "Yemen",
    "answers": ["Wales", "Cymru"],
    "loc": "nq question: who wrote the song of the sea",
    "loc_ans": "Cy Roe",
    "cond": "Chile >> Yemen || What country is Ada Quill from?",
    "portability": {
        "Recalled Relation": "(Yemen, capital, Sana'a)",
        "New Question": "What is the capital of Ada Quill's home country?",
        "New Answer": "Sana'a",
    },
}
QAEDIT = {
    "id": 1104,
    "source": "NQ",
    "prompt": "who directed the silver gate?",
    "target": "Ada Quill",
    "subject": "the silver gate",
    "rephrase": "Which director made The Silver Gate?",
    "locality": [
        {"loc": "who sang the long road", "loc_ans": "Bo Marsh"},
        {"loc": "when was the bridge built", "loc_ans": ""},
    ],
}
WIKI_RECENT = {
    "subject": "Ada Quill",
    "prompt": "The place of death of Ada Quill is",
    "target_new": "Bonn",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Ada Quill still alive?", "ground_truth": [["no"], ["incorrect"]]}
        ],
        "Reasoning": [
            {
                "prompt": "The country of the place of death of Ada Quill is",
                "ground_truth": [["Germany", "Deutschland"]],
            },
            {"prompt": "The mayor of the place of death of Ada Quill is", "ground_truth": [[""]]},
        ],
        "Subject_Aliasing": [
            {"prompt": "The place of death of A. Quill is", "ground_truth": [["Bonn"]]}
        ],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The name of the father of Ada Quill is", "ground_truth": [["Cy Quill"]]}
        ]
    },
}
WIKI_COUNTERFACT = {
    "subject": "Ada Quill",
    "prompt": "The name of the position held by Ada Quill is",
    "target_new": "bishop",
    "ground_truth": "mayor",
    "portability": {
        "Subject_Aliasing": [
            {"prompt": "The name of the position held by A. Quill is", "ground_truth": "bishop"}
        ]
    },
    "locality": {
        "Forgetfulness": [
            {
                "prompt": "The name of the position held by Ada Quill, which is not bishop, is",
                "ground_truth": "mayor",
            }
        ]
    },
}
KNOWEDIT_ZSRE = {
    "subject": "Quillia",
    "target_new": "moths",
    "prompt": "Which family does Quillia belong to?",
    "ground_truth": ["beetles"],
    "rephrase_prompt": "What family are Quillia?",
    "cond": "flies >> moths || Which family does Quillia belong to?",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The taxon rank of Quillia is", "ground_truth": ["genus"]}
        ]
    },
    "portability": {
        "Reasoning": [{"prompt": "What eats the family of Quillia?", "ground_truth": "bats"}]
    },
}
WIKIBIO = {"text": "Ada Quill was born.", "labels": "She wrote.", "concept": "ada quill"}


def rewrite(subject, new, true):
    return {
        "prompt": "{} is a citizen of",
        "relation_id": "P27",
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": true, "id": "Q2"},
        "subject": subject,
        "question": f"What is the country of citizenship of {subject}?",
    }


MQUAKE = [
    {
        "case_id": 1,
        "requested_rewrite": [rewrite("Ada Quill", "Yemen", "Wales")],
        "questions": ["What is the capital of Ada Quill's country?", "Ada's country's capital?"],
        "answer": "Cardiff",
        "answer_alias": [],
        "new_answer": "Sana'a",
        "new_answer_alias": ["Sanaa"],
        "single_hops": [],
        "new_single_hops": [],
        "orig": {},
    },
    {
        "case_id": 2,
        "requested_rewrite": [
            rewrite("Bo Marsh", "Chile", "Peru"),
            rewrite("Cy Roe", "Oman", "Mali"),
        ],
        "questions": ["Where do both come from?"],
        "answer": "Lima",
        "new_answer": "Santiago",
    },
]


def ripple_query(prompt, value, relation):
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": ["other"]}],
        "query_type": "regular",
        "subject_id": "Q7",
        "relation": relation,
        "target_ids": ["Q8"],
        "phrase": None,
    }


def ripple_test(*queries):
    return {
        "test_queries": list(queries),
        "test_condition": "OR",
        "condition_queries": [
            ripple_query("The gender of Ada Quill is", "female", "SEX_OR_GENDER")
        ],
    }


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ada Quill is Yemen.",
        "subject_id": "Q7",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q9",
        "original_fact": {
            "prompt": "The name of the country of citizenship of Ada Quill is Wales.",
            "subject_id": "Q7",
            "relation": "COUNTRY_OF_CITIZENSHIP",
            "target_id": "Q10",
        },
    },
    "Relation_Specificity": [
        ripple_test(ripple_query("The name of the mother of Ada Quill is", "Di Quill", "MOTHER"))
    ],
    "Logical_Generalization": [],
    "Subject_Aliasing": [
        ripple_test(
            ripple_query(
                "The name of the country of citizenship of A. Quill is",
                "Yemen",
                "COUNTRY_OF_CITIZENSHIP",
            )
        )
    ],
    "Compositionality_I": [
        ripple_test(
            ripple_query("The capital of the country of Ada Quill is", "Sana'a", "CAPITAL"),
            ripple_query("The anthem of the country of Ada Quill is", "", "ANTHEM"),
        )
    ],
    "Compositionality_II": [],
    "Forgetfulness": [],
}
WIKIBIGEDIT = {
    "tag": "update",
    "subject": "Ada Quill",
    "subject_id": "Q7",
    "relation": "employer",
    "relation_id": "P108",
    "object": "Acme",
    "object_id": "Q11",
    "update": "Who employs Ada Quill?",
    "rephrase": "Which firm is the employer of Ada Quill?",
    "personas": "Arr, who be payin' Ada Quill?",
    "ans": "Acme",
    "loc": "Who employs Bo Marsh?",
    "loc_ans": "Bolt",
    "mhop": "In which city is the employer of Ada Quill?",
    "mhop_ans": "Bonn",
}
