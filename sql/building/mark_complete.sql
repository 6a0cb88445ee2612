-- the atlas is whole; scorings over other prompts are no longer the ones to use
update scorings set is_current = false
where reference_hash <> (select a.reference_hash from atlas as a);
delete from null_scores where null_id in (
    select r.null_id from nulls as r where r.reference_hash <> (select a.reference_hash from atlas as a)
);
delete from nulls where reference_hash <> (select a.reference_hash from atlas as a);
update atlas set state = 'complete'
