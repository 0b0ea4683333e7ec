-- How the whole platform works at present; every daemon obeys. restore: after a backup was loaded
-- nothing is delivered until a person says so (libcommon/db/restore_mode.h).
CREATE TABLE IF NOT EXISTS platform_modes (
  name VARCHAR(50) CHARACTER SET ascii NOT NULL PRIMARY KEY,
  is_on TINYINT UNSIGNED NOT NULL DEFAULT 0,
  since DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
