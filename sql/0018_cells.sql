-- Customers who move between cells (libcommon/domain/customer_move.h, docs/scale.md). The fence of a
-- balance is read under the lock that every change of it takes. Each statement may run twice, and the
-- previous release runs beside it: it knows none of this, and nobody moves before all know it.
SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'user_balances' AND column_name = 'fence') = 0,
  'ALTER TABLE user_balances
     ADD COLUMN fence TINYINT UNSIGNED NOT NULL DEFAULT 0
       COMMENT ''0 = open, 1 = the customer leaves: only refunds, 2 = nothing changes it (ledger.h)''',
  'DO 0');
PREPARE change_balances FROM @change;
EXECUTE change_balances;
DEALLOCATE PREPARE change_balances;
CREATE TABLE IF NOT EXISTS customer_moves (
  customer_id BIGINT NOT NULL PRIMARY KEY,
  state TINYINT UNSIGNED NOT NULL COMMENT 'customer_move.h',
  cell VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the other one: where to, or where from',
  since DATETIME(6) NOT NULL COMMENT 'of the state'
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- What an endpoint of a customer who came was called in the cell that it came from.
CREATE TABLE IF NOT EXISTS moved_webhooks (
  customer_id BIGINT NOT NULL,
  old_id BIGINT UNSIGNED NOT NULL,
  new_id BIGINT UNSIGNED NOT NULL COMMENT 'webhooks.id here; the same, if nobody had it',
  PRIMARY KEY (customer_id, old_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- Receipts about messages of customers who have left, to be handed on to the cell they are in now.
CREATE TABLE IF NOT EXISTS receipts_moved (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id BIGINT NOT NULL,
  operator VARCHAR(30) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  message_identifier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position INT UNSIGNED NOT NULL,
  match_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  is_delivered TINYINT UNSIGNED NOT NULL,
  part VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  parts_rule TINYINT UNSIGNED NOT NULL DEFAULT 0,
  code VARCHAR(32) NOT NULL DEFAULT '',
  words VARCHAR(160) NOT NULL DEFAULT '',
  reason VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT '',
  received_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  KEY idx_receipts_moved_customer (customer_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- Always there, so that whoever writes down a receipt can hold it and a move has something to wait for.
INSERT IGNORE INTO change_counters(name, value, changed_at) VALUES ('customer_moves', 1, NOW(6));
