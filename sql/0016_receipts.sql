-- What became of a recipient behind the operator that has it: `delivery` beside the status, and a row
-- for each operator that may have it and tells (libcommon/domain/recipient_receipt.c). Without such
-- operators nothing of this is ever written. Each statement may run twice.
SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'message_status' AND column_name = 'delivery') = 0,
  'ALTER TABLE message_status
     ADD COLUMN delivery TINYINT UNSIGNED NOT NULL DEFAULT 0
       COMMENT ''0 = none, 1 = waiting, 2 = delivered, 3 = undelivered, 4 = unreported'',
     ADD COLUMN delivery_refunded TINYINT UNSIGNED NOT NULL DEFAULT 0
       COMMENT ''1 = undelivered, and the price has gone back''',
  'DO 0');
PREPARE change_status FROM @change;
EXECUTE change_status;
DEALLOCATE PREPARE change_status;
CREATE TABLE IF NOT EXISTS deliveries (
  status_id BIGINT NOT NULL COMMENT 'message_status.id',
  operator VARCHAR(30) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  match_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ''
    COMMENT 'what its receipts call the message, in the form that both sides agree on',
  state TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'as message_status.delivery',
  parts SMALLINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'that were sent',
  parts_seen VARBINARY(252) NOT NULL DEFAULT '' COMMENT 'four bytes of each part that has arrived',
  code VARCHAR(32) NOT NULL DEFAULT '' COMMENT 'the operator''s own',
  words VARCHAR(160) NOT NULL DEFAULT '' COMMENT 'the operator''s own',
  reason VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT '' COMMENT 'ours',
  reported_at DATETIME(6) NULL COMMENT 'of the receipt that decided',
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  look_at DATETIME(6) NOT NULL COMMENT 'unreported from then on if it still waits; once looked at, gone',
  looked TINYINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (status_id, operator),
  KEY idx_deliveries_match (operator, match_id),
  KEY idx_deliveries_look (look_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- Receipts that match nothing yet, or a recipient that is being sent just now.
CREATE TABLE IF NOT EXISTS receipts_early (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  operator VARCHAR(30) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  message_identifier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '' COMMENT 'of its reference',
  position INT UNSIGNED NOT NULL DEFAULT 0,
  match_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  is_delivered TINYINT UNSIGNED NOT NULL,
  part VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  parts_rule TINYINT UNSIGNED NOT NULL DEFAULT 0,
  code VARCHAR(32) NOT NULL DEFAULT '',
  words VARCHAR(160) NOT NULL DEFAULT '',
  reason VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT '',
  received_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  look_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  KEY idx_receipts_early_look (look_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
