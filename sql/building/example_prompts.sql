-- a prompt that holds an example
select p.prompt_id, p.text
from prompts as p
where p.prompt_id in (select e.prompt_id from examples as e)
order by p.prompt_id
