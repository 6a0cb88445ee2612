-- a run of prompts that some SAEs have not seen yet, with those SAEs
select s.first_prompt, s.prompts, list(s.sae_key order by s.sae_key) as sae_keys
from shards as s
where s.finished_at is null
group by s.first_prompt, s.prompts
order by s.first_prompt, s.prompts
