package demo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	inputTopic  = "requests"
	outputTopic = "failures"
	partitions  = 4
	// unread is how many bytes of records may be sent and not yet read. It bounds what the embedded Kafka must keep.
	unread = 6 << 20
	// retention is what a partition keeps. All that is unread may lie in one of them, with batch headers.
	retention = unread + unread/4
	segment   = 1 << 20
)

// startBroker starts a Kafka on loopback that forgets early. Its log is in files: in memory it would be in our memory.
func startBroker(dir string) (*kfake.Cluster, string, error) {
	c, err := kfake.NewCluster(
		kfake.DataDir(dir),
		kfake.NumBrokers(1),
		kfake.SeedTopics(partitions, inputTopic),
		kfake.SeedTopics(1, outputTopic),
		kfake.BrokerConfigs(map[string]string{
			"log.retention.bytes": strconv.Itoa(retention),
			"log.segment.bytes":   strconv.Itoa(segment),
		}),
	)
	if err != nil {
		return nil, "", fmt.Errorf("start embedded kafka: %w", err)
	}
	return c, strings.Join(c.ListenAddrs(), ","), nil
}
