import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** A job of Flink's own API, as flink run submits it. */
public final class JavaJob {
  private JavaJob() {}

  public static void main(String[] args) throws Exception {
    StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
    env.fromElements(1, 2, 3).print();
    env.execute();
  }
}
