-- The first answer to a POST with an Idempotency-Key, stored by the transaction that charged.
CREATE TABLE IF NOT EXISTS idempotency_keys (
  customer_id BIGINT NOT NULL,
  route TINYINT UNSIGNED NOT NULL COMMENT '1 = POST /messages/send, 2 = POST /balance/add',
  idem_key VARBINARY(255) NOT NULL,
  body_hash BINARY(32) NOT NULL COMMENT 'SHA-256 of the fields that count',
  response VARCHAR(512) NOT NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (customer_id, route, idem_key),
  KEY idx_idempotency_keys_created (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
