-- Who may call the API (api/key_store.h), and a counter for what processes keep in memory: whoever
-- changes the keys raises it in the same transaction, and whoever has read them sees by it, in one
-- row, that they have changed. Each statement may run twice.
CREATE TABLE IF NOT EXISTS change_counters (
  name VARCHAR(50) CHARACTER SET ascii NOT NULL PRIMARY KEY,
  value BIGINT UNSIGNED NOT NULL,
  changed_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS api_keys (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  hash BINARY(32) NOT NULL COMMENT 'SHA-256 of the key, which itself is nowhere',
  label VARCHAR(100) NOT NULL,
  customer_id BIGINT NOT NULL DEFAULT 0 COMMENT '0 = all',
  scopes VARCHAR(200) CHARACTER SET ascii NOT NULL COMMENT 'words with commas',
  networks VARCHAR(1000) CHARACTER SET ascii NOT NULL DEFAULT '' COMMENT 'with commas; none = from everywhere',
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  expires_at DATETIME(6) NULL,
  revoked_at DATETIME(6) NULL COMMENT 'refused from then on; ahead of us while a rotation leaves it time',
  replaced_by BIGINT UNSIGNED NULL,
  UNIQUE KEY uq_api_keys_hash (hash)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
