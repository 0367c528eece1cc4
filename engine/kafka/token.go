package kafka

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// rotation is the number of transactional ids of a sink; see doc.go for why there are three.
const rotation = 3

// token names a prepared transaction in a checkpoint: all that committing it takes. JSON, so that it can be read there.
type token struct {
	Version int `json:"v"`
	// Slot is the place in the rotation.
	Slot int `json:"slot"`
	// ID is the transactional id; empty: there were no records, and so no transaction.
	ID       string `json:"transactional_id,omitempty"`
	Producer int64  `json:"producer_id,omitempty"`
	Epoch    int16  `json:"producer_epoch"`
	// V2 says that the transaction began under transaction.version >= 2 (KIP-890), where EndTxn must say so, too.
	V2 bool `json:"v2,omitempty"`
	// Witness is a record of the transaction: whether a reader of committed records gets it tells what became of the
	// transaction when the coordinator has forgotten.
	Witness *witness `json:"witness,omitempty"`
	// Prepared is when, in milliseconds since the epoch, and Timeout how long the transaction may be open; for messages.
	Prepared int64 `json:"prepared_ms,omitempty"`
	Timeout  int64 `json:"timeout_ms,omitempty"`
}

// witness is where a record is.
type witness struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (t *token) encode() ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode transaction token: %w", err)
	}
	return b, nil
}

func decodeToken(b []byte) (*token, error) {
	var t token
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("decode transaction token: %w", err)
	}
	switch {
	case t.Version != configVersion:
		return nil, fmt.Errorf("decode transaction token: version %d is not %d", t.Version, configVersion)
	case t.Slot < 0 || t.Slot >= rotation:
		return nil, fmt.Errorf("decode transaction token: slot %d is not one of %d", t.Slot, rotation)
	case t.ID != "" && (t.Producer < 0 || t.Epoch < 0):
		return nil, fmt.Errorf("decode transaction token: producer %d, epoch %d", t.Producer, t.Epoch)
	}
	return &t, nil
}

// transactionalID returns the id of a slot. Jobs and transforms have names of any length; the broker stores ids with every
// transaction.
func transactionalID(job, transform string, slot int) string {
	sum := sha256.Sum256([]byte(transform))
	return fmt.Sprintf("tinyrunner-%s-%s-%d", job, hex.EncodeToString(sum[:6]), slot)
}
