INSERT INTO keys (tenant, modality, epoch, fingerprint, create_us, revoke_us)
VALUES ('default', 'image', 0, '0123456789abcdef0123456789abcdef', 1700000000000000, 1700000000000002),
       ('default', 'image', 1, '89abcdef0123456789abcdef01234567', 1700000000000001, NULL),
       ('other', 'text', 0, 'cdef0123456789abcdef0123456789ab', 1700000000000000, NULL);
