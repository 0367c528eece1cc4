// Package brokertest runs real Kafka brokers for tests: one node with KRaft, of a version, on free ports of the loopback
// interface, which can be stopped, killed and started again with its data.
//
// The jars come by Maven (testdata/pom.xml) into the directory that TINYRUNNER_KAFKA_DIR names, .build/kafka of the
// repository by default, one directory for each version, and are checked against testdata/jars-VERSION.sha256. java and mvn
// must be in the PATH. When anything is missing the test is skipped and says why, or fails if TINYRUNNER_REAL_KAFKA=1.
package brokertest
