INSERT INTO runs (tenant, run_id, job_id, create_us, spec, dataset_manifest_sha256, fingerprint, num_events, checkpoint,
                  checkpoint_step, metrics, train_s)
VALUES ('default', 'r1', 'j1', 1700000000000000, '{"epochs": 1}', 'eeee', 'f1', 2,
        '{"media_type": "application/vnd.deepseek.checkpoint.v1+safetensors", "sha256": "c000000000000000000000000000000000000000000000000000000000000000", "size_bytes": 5, "tenant": "default"}',
        2, '{"accuracy": 0.5}', 1.25),
       ('other', 'r2', 'j2', 1700000000000000, '{"epochs": 1}', 'ffff', 'f1', 0, NULL, 0, '{}', 0.0);
INSERT INTO run_events (tenant, run_id, sequence, time_us, kind, payload)
VALUES ('default', 'r1', 1, 1700000000000000, 'state', '{"state": "PENDING"}'),
       ('default', 'r1', 2, 1700000000000001, 'state', '{"state": "SUCCEEDED"}');
INSERT INTO exports (tenant, run_id, fingerprint, manifest, metrics)
VALUES ('default', 'r1', 'x1',
        '{"media_type": "application/vnd.deepseek.model.v1+json", "sha256": "e000000000000000000000000000000000000000000000000000000000000000", "size_bytes": 5, "tenant": "default"}',
        '{}');
