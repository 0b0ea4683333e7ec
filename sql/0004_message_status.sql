-- One row a recipient. owner is the workers.id that is sending it (0: nobody), attempt the fence:
-- whoever settles must still find its own owner and attempt.
CREATE TABLE IF NOT EXISTS message_status (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  status VARCHAR(50) CHARACTER SET ascii NOT NULL,
  type VARCHAR(50) CHARACTER SET ascii NOT NULL,
  recipient VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  provider VARCHAR(50) CHARACTER SET ascii NOT NULL DEFAULT '',
  message_identifier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position INT UNSIGNED NOT NULL DEFAULT 0,
  price BIGINT NOT NULL DEFAULT 0,
  attempt INT UNSIGNED NOT NULL DEFAULT 0,
  takeovers INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'claims in a row whose owner died before settling',
  owner BIGINT NOT NULL DEFAULT 0,
  provider_message_id VARCHAR(128) NOT NULL DEFAULT '',
  last_error VARCHAR(255) NOT NULL DEFAULT '',
  unknown_operators VARCHAR(255) CHARACTER SET ascii NOT NULL DEFAULT '' COMMENT 'names, comma-separated: they may have it',
  first_claimed_at DATETIME(6) NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  updated_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  UNIQUE KEY uq_message_status_identifier_recipient (message_identifier, recipient),
  KEY idx_message_status_user (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
