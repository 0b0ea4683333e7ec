-- How many messages of a lane are published and not final, as the process that repairs last counted
-- them (consumerd/published.h); whoever shows the number to the outside reads it here.
CREATE TABLE IF NOT EXISTS published_open (
  lane TINYINT UNSIGNED NOT NULL PRIMARY KEY,
  messages BIGINT UNSIGNED NOT NULL,
  counted_at DATETIME(6) NOT NULL,
  valid_until DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
