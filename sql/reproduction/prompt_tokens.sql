-- a reference prompt with the tokens that count
select p.prompt_id, p.text, p.n_tokens from prompts as p order by p.prompt_id
