"""Templates: slots keep their word through a talk, articles fit, and what the user said first can be repeated."""

from model.bundled_recipe.talk.templates import TalkWriter, read_words


def talks(*turns: str) -> list[list[str]]:
    writer = TalkWriter("en", seed="test")
    return [writer.write([[turn] for turn in turns], {}) for _ in range(600)]


def test_a_slot_is_the_same_word_in_the_whole_talk() -> None:
    names = {name for (name, *_) in read_words("en")["name"]}
    for said, answer in talks("I am {name}", "{name}!"):
        assert answer.removesuffix("!") in names
        assert said.endswith(answer.removesuffix("!"))


def test_a_second_slot_is_another_word() -> None:
    assert all(len(set(answer.lower().split("-"))) == 2 for _, answer in talks("Hello", "{season}-{season2}"))


def test_forms_articles_and_capitals() -> None:
    answers = {answer for _, answer in talks("Hello", "{animal.1} and a {animal}")}
    assert "Owls and an owl" in answers
    assert any(answer == "An Oomberg" for _, answer in talks("Hello", "a {madeup}"))
    assert any(answer.endswith(" and a cat") for answer in answers) or "Cats and a cat" in answers


def test_a_slot_that_a_function_fills_can_be_written_with_a_capital() -> None:
    writer = TalkWriter("en", seed="test")
    assert writer.write([["Say it."], ["{Word}: a {word}"]], {"word": "apple"})[1] == "Apple: an apple"


def test_the_first_turn_can_be_repeated() -> None:
    assert all(answer == f"You said: {said}" for said, answer in talks("I like {food}.", "You said: {first_turn}"))


def test_people_also_type_without_capitals_and_end_marks() -> None:
    assert {said for said, _ in talks("Is It Late?", "Yes.")} >= {"Is It Late?", "is it late"}
