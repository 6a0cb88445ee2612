-- where the language model of the atlas is now
update saes set model = $model
