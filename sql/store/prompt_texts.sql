-- a reference prompt's text, in order
select p.prompt_id, p.text from prompts as p order by p.prompt_id
