"""A small language model, tuned on our stories and labelled texts, writes more of them and labels others.

    python -m model.bundled_recipe.teacher SmolLM2-135M-Instruct.Q4_1.gguf DATA OUT

Three minutes on a large GPU. What it is asked and what is kept: texts.py. It has a network of its own, because
thousands of short texts at once on a GPU are not what the engine is made for.
"""
