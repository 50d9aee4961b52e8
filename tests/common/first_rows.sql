INSERT INTO requests (tenant, method, request_id, body_sha256, response, create_us)
VALUES ('default', 'CreateUpload', 'r-1', 'e3b0', 'uploads/u1', 1700000000000000);
INSERT INTO jobs (job_id, tenant, kind, state, progress, message, error_code, error_reason, error_message, error_field,
                  result, attempt, spec, owner, lease_until_us, create_us, start_us, end_us)
VALUES ('j1', 'default', 'trainer.run', 'succeeded', 1.0, 'step 2 of 2', '', '', '', '',
        'runs/r1', 1, '{"run_id": "r1"}', 'somebody', 1700000004000000, 1700000000000000, 1700000001000000, 1700000003000000),
       ('j2', 'other', 'ingest.commit', 'pending', 0.0, '', '', '', '', '', '', 0, '{"upload_id": "u2"}', '', 0,
        1700000000000000, NULL, NULL);
