"""/v1/edits: an instruction and a text to apply it to."""

from extensions.openai.defaults import get_default_req_params
from extensions.openai.errors import InvalidRequestError
from modules import shared
from modules.text_generation import encode, generate_reply

from standin.hooks import last

_FORM = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


def edits(instruction: str, input: str, temperature=1.0, top_p=1.0) -> dict:
    prompt = _FORM.replace("{instruction}", instruction).replace("{input}", input)
    req_params = get_default_req_params()
    limit, count = shared.settings["truncation_length"], len(encode(prompt)[0])
    if limit - count < 1:
        raise InvalidRequestError(f"The text took {count} tokens, which is too many.", param="input")
    req_params.update(max_new_tokens=limit - count, truncation_length=limit, temperature=temperature, top_p=top_p)
    answer = last(generate_reply(prompt, req_params, stopping_strings=["\n###"], is_chat=False), "")
    return {"object": "edit", "choices": [{"text": answer}]}
