"""The chat template for tokenizers that have none."""

# "Human: ...\n\nAssistant: ...". The generation prompt ends
# in the colon, not in a blank, because the blank belongs to the response's first token. Where the
# tokenizer puts a BOS before plain text of its own accord, so does this template; elsewhere it does
# not. The generation markers let TRL find the same response.
FALLBACK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "Assistant:{% generation %} {{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}Human: {{ message['content'] | trim }}"
    "{% elif message['role'] == 'tool' %}Tool: {{ message['content'] | trim }}"
    "{% else %}{{ message['content'] | trim }}{% endif %}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
