INSERT INTO loaded_models (tenant, model_id, number, manifest_sha256, file_sha256, update_us)
VALUES ('default', 'm', 2, 'bbbb', 'abcd', 1700000000000000);
