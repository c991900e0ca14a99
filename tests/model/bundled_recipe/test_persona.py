"""What the model says about itself is well-formed and honest."""

from model.bundled_recipe.persona import TOPICS, persona_rows


def test_rows_alternate_and_end_with_an_answer_of_their_topic() -> None:
    rows = list(persona_rows())
    answers = {answer for topic in TOPICS for answer in topic.answers}
    assert len(rows) == sum(len(topic.questions) * len(topic.answers) for topic in TOPICS)
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row["messages"][-1]["content"] in answers
    assert {len(row["messages"]) for row in rows} == {2, 4}


def test_every_question_stands_in_one_topic() -> None:
    questions = [question for topic in TOPICS for question in topic.questions]
    assert len(questions) == len(set(questions))
    assert {topic.language for topic in TOPICS} == {"en", "zh", "de", "fr"}
