-- an SAE of the atlas, in the order they were added
select s.* from saes as s order by s.sae_key
