-- What each customer has left. Every change goes with a row in user_transactions.
CREATE TABLE IF NOT EXISTS user_balances (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  balance BIGINT NOT NULL DEFAULT 0,
  last_updated DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  UNIQUE KEY user_id (user_id),
  CONSTRAINT balance_not_negative CHECK (balance >= 0)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
