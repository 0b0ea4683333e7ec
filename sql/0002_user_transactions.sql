-- The ledger. transaction_id is derived (c-<message>, r-<message>-<position>, d-<uuid>), so that the
-- unique key makes a second charge or refund of the same thing impossible.
CREATE TABLE IF NOT EXISTS user_transactions (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  transaction_type VARCHAR(50) CHARACTER SET ascii NOT NULL,
  description TEXT NULL,
  transaction_id VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  UNIQUE KEY transaction_id (transaction_id),
  KEY idx_user_transactions_user (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
