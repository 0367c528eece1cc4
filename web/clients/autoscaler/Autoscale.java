import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.JobID;
import org.apache.flink.autoscaler.JobAutoScalerContext;
import org.apache.flink.autoscaler.JobAutoScalerImpl;
import org.apache.flink.autoscaler.RestApiMetricsCollector;
import org.apache.flink.autoscaler.ScalingExecutor;
import org.apache.flink.autoscaler.ScalingMetricEvaluator;
import org.apache.flink.autoscaler.event.LoggingEventHandler;
import org.apache.flink.autoscaler.realizer.ScalingRealizer;
import org.apache.flink.autoscaler.state.InMemoryAutoScalerStateStore;
import org.apache.flink.autoscaler.tuning.ConfigChanges;
import org.apache.flink.client.program.rest.RestClusterClient;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.metrics.groups.UnregisteredMetricsGroup;
import org.apache.flink.runtime.client.JobStatusMessage;
import org.apache.flink.runtime.highavailability.nonha.standalone.StandaloneClientHAServices;
import org.apache.flink.runtime.jobgraph.JobResourceRequirements;
import org.apache.flink.runtime.jobgraph.JobVertexResourceRequirements;
import org.apache.flink.runtime.rest.messages.EmptyRequestBody;
import org.apache.flink.runtime.rest.messages.JobMessageParameters;
import org.apache.flink.runtime.rest.messages.job.JobManagerJobConfigurationHeaders;
import org.apache.flink.runtime.rest.messages.job.JobResourceRequirementsBody;
import org.apache.flink.runtime.rest.messages.job.JobResourceRequirementsHeaders;
import org.apache.flink.runtime.rest.messages.job.JobResourcesRequirementsUpdateHeaders;

/**
 * Runs Flink's autoscaler on the jobs of a cluster: Autoscale URL OPTION=VALUE... It ends when it has changed a job's resource
 * requirements, and fails after three minutes. What is its own is only what the library leaves to those who use it: the list of
 * jobs, and how a decision is carried out.
 */
public final class Autoscale {
  private static final long PATIENCE_MILLIS = 180_000;
  private static final long INTERVAL_MILLIS = 5_000;
  private static final long TIMEOUT_SECONDS = 10;

  private final String url;
  private final Configuration options;

  private Autoscale(String url, Configuration options) {
    this.url = url;
    this.options = options;
  }

  public static void main(String[] args) throws Exception {
    Configuration options = new Configuration();
    for (int k = 1; k < args.length; k++) {
      String[] option = args[k].split("=", 2);
      options.setString(option[0], option[1]);
    }
    System.exit(new Autoscale(args[0], options).run() ? 0 : 1);
  }

  private boolean run() throws Exception {
    Rescaler rescaler = new Rescaler();
    LoggingEventHandler<JobID, JobAutoScalerContext<JobID>> events = new LoggingEventHandler<>();
    InMemoryAutoScalerStateStore<JobID, JobAutoScalerContext<JobID>> store = new InMemoryAutoScalerStateStore<>();
    JobAutoScalerImpl<JobID, JobAutoScalerContext<JobID>> autoscaler =
        new JobAutoScalerImpl<>(
            new RestApiMetricsCollector<>(),
            new ScalingMetricEvaluator(),
            new ScalingExecutor<>(events, store),
            events,
            rescaler,
            store);
    for (long end = System.currentTimeMillis() + PATIENCE_MILLIS; System.currentTimeMillis() < end; ) {
      try (RestClusterClient<String> client = client()) {
        for (JobStatusMessage job : client.listJobs().get(TIMEOUT_SECONDS, TimeUnit.SECONDS)) {
          autoscaler.scale(context(client, job));
        }
      }
      if (rescaler.changed) {
        return true;
      }
      Thread.sleep(INTERVAL_MILLIS);
    }
    System.out.println("no decision to rescale");
    return false;
  }

  private RestClusterClient<String> client() throws Exception {
    return new RestClusterClient<>(new Configuration(), "cluster", (c, e) -> new StandaloneClientHAServices(url));
  }

  /** A job with its configuration, as the cluster has it, and the options of the command line. */
  private JobAutoScalerContext<JobID> context(RestClusterClient<String> client, JobStatusMessage job) throws Exception {
    Configuration conf = new Configuration();
    client
        .sendRequest(JobManagerJobConfigurationHeaders.getInstance(), parameters(job.getJobId()), EmptyRequestBody.getInstance())
        .get(TIMEOUT_SECONDS, TimeUnit.SECONDS)
        .forEach(entry -> conf.setString(entry.getKey(), entry.getValue()));
    conf.addAll(options);
    return new JobAutoScalerContext<>(
        job.getJobId(), job.getJobId(), job.getJobState(), conf, new UnregisteredMetricsGroup(), this::client);
  }

  private static JobMessageParameters parameters(JobID job) {
    JobMessageParameters p = new JobMessageParameters();
    p.jobPathParameter.resolve(job);
    return p;
  }

  /** Carries decisions out through the REST API for resource requirements, which only an adaptive scheduler honours. */
  private static final class Rescaler implements ScalingRealizer<JobID, JobAutoScalerContext<JobID>> {
    boolean changed;

    @Override
    public void realizeParallelismOverrides(JobAutoScalerContext<JobID> context, Map<String, String> overrides) throws Exception {
      if (context.getConfiguration().get(JobManagerOptions.SCHEDULER) != JobManagerOptions.SchedulerType.Adaptive) {
        throw new IllegalStateException("the cluster's scheduler is not adaptive");
      }
      JobMessageParameters job = parameters(context.getJobID());
      try (RestClusterClient<String> client = context.getRestClusterClient()) {
        JobResourceRequirements present =
            client
                .sendRequest(new JobResourceRequirementsHeaders(), job, EmptyRequestBody.getInstance())
                .get(TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .asJobResourceRequirements()
                .get();
        Map<org.apache.flink.runtime.jobgraph.JobVertexID, JobVertexResourceRequirements> wanted =
            new HashMap<>(present.getJobVertexParallelisms());
        wanted.replaceAll(
            (vertex, old) -> {
              String parallelism = overrides.get(vertex.toString());
              return parallelism == null
                  ? old
                  : new JobVertexResourceRequirements(
                      new JobVertexResourceRequirements.Parallelism(1, Integer.parseInt(parallelism)));
            });
        if (wanted.equals(present.getJobVertexParallelisms())) {
          return;
        }
        client
            .sendRequest(
                new JobResourcesRequirementsUpdateHeaders(),
                job,
                new JobResourceRequirementsBody(new JobResourceRequirements(wanted)))
            .get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
        System.out.println("rescaled: " + wanted);
        changed = true;
      }
    }

    @Override
    public void realizeConfigOverrides(JobAutoScalerContext<JobID> context, ConfigChanges changes) {
      System.out.println("not carried out: " + changes);
    }
  }
}
