-- the atlas is unfinished from here on, over these reference prompts
update atlas set state = 'building', reference_hash = $reference_hash
