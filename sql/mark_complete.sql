-- the atlas is whole; scorings over other prompts are no longer the ones to use
update scorings set is_current = false
where reference_hash <> (select a.reference_hash from atlas as a);
update atlas set state = 'complete';
